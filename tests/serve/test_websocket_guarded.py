"""WebSockets of a server with keys and little room, and their end with the server's."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest

from rnnonnx.manifest import StateTensor, Tensor

from .websocket_talk import OPEN, Connected, exceptions, overview, step, wait_for

NAMES = (f"guarded {number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def guarded(models, kit, tmp_path_factory):
    """A server with keys and little room, whose steps wait for streams that are open and idle."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {}
    for name in "ab":
        command = [sys.executable, "-m", "rnnonnx.cli", "key", name, "--keys", str(file)]
        keys[name] = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
    (file.parent / "sum.onnx").write_bytes(added(kit))
    files = [models / "lstm.onnx", models / "ledger.onnx", file.parent / "sum.onnx"]
    limits = ["--max-message", 2**16, "--max-connections", 3, "--max-delay", 60]
    with kit.serving(
        *files, "--keys", file, *limits, "--allowed-origin", "https://App.example"
    ) as running:
        yield running, keys


def added(kit):
    """A model of two inputs: s += a + b."""
    a, b, y = (Tensor(name, "float32", ("batch", 1), 0) for name in "aby")
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    nodes = [
        onnx.helper.make_node("Sum", ["s_in", "a", "b"], ["s_out"]),
        onnx.helper.make_node("Identity", ["s_out"], ["y"]),
    ]
    return kit.build([a, b], [y], [state], nodes)


def bearer(key):
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


def test_the_key_in_the_header_or_in_the_first_frame(guarded):
    server, keys = guarded
    name = next(NAMES)
    with Connected(server, "ledger", **bearer(keys["a"])) as talk:
        talk.say(OPEN | {"sequence": name, "start": True})
        talk.say(step(5))
    # another key has its own sequences
    with Connected(server, "ledger", greeted=False) as talk:
        assert talk.say(OPEN | {"key": keys["b"], "sequence": name})["type"] == "hello"
        assert talk.read()["status"] == 404
    with Connected(server, "ledger", greeted=False) as talk:
        hello = talk.say(OPEN | {"key": keys["a"], "sequence": name})
        assert (hello["type"], hello["model"]) == ("hello", "ledger")
        assert talk.read()["steps"] == 1
        assert overview(server, "ledger", keys["b"])["pool"]["sequences"] == []
        talk.say({"type": "close"})


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (OPEN, 401),
        (OPEN | {"key": "a.wrong"}, 401),
        (OPEN | {"key": ""}, 401),
        (step(1), 401),
        (bytes(8), 401),
        ({"type": "shout"}, 400),
        ("nonsense", None),
    ],
)
def test_without_a_key_nothing_is_told(guarded, frame, code):
    with Connected(guarded[0], "ledger", greeted=False) as talk:
        talk.send(frame)
        if code is None:
            assert talk.closed()[0] == 1007
        else:
            answer = talk.read()
            assert (answer["type"], answer["status"], answer["state"]) == ("error", code, "none")
            assert talk.closed()[0] == 1008
    with pytest.raises(exceptions.InvalidStatus) as caught:
        Connected(guarded[0], "ledger", **bearer("a.wrong"))
    assert caught.value.response.status_code == 401


def test_bytes_where_there_is_no_form_for_them_break_the_connection(guarded):
    server, keys = guarded
    with Connected(server, "sum", **bearer(keys["a"])) as talk:
        assert talk.hello["binary"] is None
        both = step(1, name="a", datatype="FP32"), step(2, name="b", datatype="FP32")
        answer = talk.say({"inputs": [frame["inputs"][0] for frame in both]})
        assert answer["outputs"][0]["data"] == [3]
        talk.send(bytes(4))
        assert talk.closed()[0] == 1003


def test_a_message_that_is_too_large_breaks_the_connection(guarded):
    server, keys = guarded
    with Connected(server, "lstm", **bearer(keys["a"])) as talk:
        assert talk.hello["limits"]["message"] == 2**16
        talk.send(bytes(2**16 + 1))
        assert talk.closed()[0] == 1009
    with Connected(server, "lstm", greeted=False) as talk:  # and before the key, too
        talk.send(bytes(2**16 + 1))
        assert talk.closed()[0] == 1009


def test_another_site_that_is_allowed(guarded):
    server, keys = guarded
    options = bearer(keys["a"])
    with Connected(server, "lstm", origin="https://app.example", **options):
        pass
    with pytest.raises(exceptions.InvalidStatus) as caught:
        Connected(server, "lstm", origin="https://app.example.org", **options)
    assert caught.value.response.status_code == 403


def test_no_more_connections_than_there_is_room_for(guarded):
    server, keys = guarded
    options = bearer(keys["a"])
    with Connected(server, "lstm", **options), Connected(server, "lstm", **options):
        with Connected(server, "lstm", **options):
            with pytest.raises(exceptions.InvalidStatus) as caught:
                Connected(server, "lstm", **options)
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["Retry-After"] == "1"
        wait_for(lambda: _connects(server, options))


def _connects(server, options):
    try:
        with Connected(server, "lstm", **options):
            return True
    except exceptions.InvalidStatus:
        return False


def test_a_client_that_goes_frees_its_row_while_its_step_waits(guarded):
    server, keys = guarded
    with Connected(server, "lstm", **bearer(keys["a"])) as idle:
        idle.say(bytes(4))
        with Connected(server, "lstm", **bearer(keys["b"])) as talk:
            talk.send(bytes(4))  # waits for the other, which is open and idle
            wait_for(lambda: overview(server, "lstm", keys["b"])["pool"]["streams"] == 2)
        wait_for(lambda: overview(server, "lstm", keys["b"])["pool"]["streams"] == 1)
    wait_for(lambda: overview(server, "lstm", keys["b"])["pool"]["streams"] == 0)


def test_a_client_that_is_too_fast_is_slowed(guarded):
    """It cannot send more than what the sockets hold: the server does not read on."""
    server, keys = guarded
    chunk = np.zeros(2**14, "<f4").tobytes()
    most = 1000  # 64 MB; the sockets of loopback hold some 6
    with (
        Connected(server, "lstm", **bearer(keys["b"])) as talk,
        Connected(server, "lstm", **bearer(keys["a"])) as idle,
    ):
        idle.say(bytes(4))
        talk.socket.socket.settimeout(1.0)
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            any(talk.send(chunk) for _ in range(most))
        assert isinstance(caught.value.__cause__, TimeoutError)
    wait_for(lambda: overview(server, "lstm", keys["a"])["pool"]["streams"] == 0)


def test_frames_count_against_the_rate_and_none_for_long_closes(models, kit):
    with (
        kit.serving(models / "ledger.onnx", "--rate", "5/minute", "--idle-timeout", 0.8) as server,
        Connected(server, "ledger") as talk,
    ):
        answers = [talk.say(step(value)) for value in range(6)]
        assert [answer["type"] for answer in answers] == ["outputs"] * 4 + ["error"] * 2
        assert answers[-1]["status"] == 429
        assert 0 < answers[-1]["retry_after"] <= 60
        assert answers[-1]["state"] == "unchanged"
        assert talk.closed() == (1008, "no frame for 0.8 s")


def test_sigterm_finishes_the_frame_and_keeps_what_has_a_name(models, kit, tmp_path):
    arguments = [models / "ledger.onnx", "--state-dir", tmp_path / "states"]
    with kit.serving(*arguments, "--max-delay", 2) as server:
        with (
            Connected(server, "ledger") as unnamed,
            Connected(server, "ledger") as named,
            Connected(server, "ledger") as quiet,
        ):
            unnamed.say(step(1))
            named.say(OPEN | {"sequence": "kept", "start": True})
            named.send(step(5))  # waits for the other stream for up to two seconds
            wait_for(lambda: overview(server, "ledger")["pool"]["streams"] == 2)
            server.process.send_signal(signal.SIGTERM)
            assert quiet.closed() == (1012, "the server goes down")
            assert unnamed.closed()[0] == 1012
            assert named.read()["outputs"][0]["data"] == [5]
            assert named.closed()[0] == 1012
        assert server.process.wait(20) == 0
    with kit.serving(*arguments) as server:
        pool = overview(server, "ledger")["pool"]
        assert (pool["streams"], pool["sequences"]) == (1, ["kept"])
        with Connected(server, "ledger") as talk:
            assert talk.say(OPEN | {"sequence": "kept"})["steps"] == 1
            assert talk.say(step(6))["outputs"][0]["data"] == [kit.ledger_of([5, 6])]
