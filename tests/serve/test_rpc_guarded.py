"""gRPC with keys, little room, clients that go, TLS, and a server that goes down."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from rnnonnx.serve._keys import add_key

grpcio = pytest.importorskip("grpc")
grpc = pytest.importorskip("tritonclient.grpc")
aio = pytest.importorskip("tritonclient.grpc.aio")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

SECONDS = 30


def number(value):
    made = grpc.InferInput("x", [1, 1], "INT64")
    made.set_data_from_numpy(np.array([[value]], "int64"))
    return [made]


@contextmanager
def refused(status, match):
    with pytest.raises(InferenceServerException, match=match) as caught:
        yield
    assert caught.value.status() == f"StatusCode.{status}"


class Client:
    """tritonclient with a key."""

    def __init__(self, address, key=None):
        self.triton = grpc.InferenceServerClient(address)
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def step(self, sequence, value=1, **flags):
        """The output of a step."""
        done = self.triton.infer(
            "ledger", number(value), sequence_id=sequence, headers=self.headers, **flags
        )
        return int(done.as_numpy("y")[0, 0])

    def begun(self, sequence, value=1, **flags):
        """A step that is not waited for: its call, and where its answer comes."""
        answer = queue.Queue()
        call = self.triton.async_infer(
            "ledger",
            number(value),
            lambda result, error: answer.put((result, error)),
            sequence_id=sequence,
            headers=self.headers,
            **flags,
        )
        return call, answer


@contextmanager
def streaming(triton, **options):
    """A stream, and the queue of `(result, error)` that it answers with."""
    answers = queue.Queue()
    triton.start_stream(lambda result, error: answers.put((result, error)), **options)
    try:
        yield answers
    finally:
        triton.stop_stream(cancel_requests=True)


class Keyed:
    """A server with keys and room for 3 sequences, 2 of each key.

    A step waits while another sequence is open and idle, for a minute: `max_delay` is long.
    """

    def __init__(self, running, keys, log):
        self.running, self.keys, self.log = running, keys, log
        self.a, self.b, self.root, self.nobody = (
            Client(running.grpc, keys.get(name)) for name in ("a", "b", "root", None)
        )

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=SECONDS)
        headers = {"Authorization": f"Bearer {self.keys['root']}"}
        connection.request("GET", "/metrics", headers=headers)
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return 0 if found is None else int(float(found[1]))

    def until(self, name, value):
        deadline = time.monotonic() + SECONDS
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.01)


STREAMS = 'rnnonnx_streams{model="ledger"}'
QUEUED = 'rnnonnx_queued{model="ledger"}'


@pytest.fixture(scope="module")
def keyed(models, kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys.json"
    keys = {name: add_key(file, name, admin=name == "root") for name in ("root", "a", "b")}
    limits = ["--keys", file, "--capacity", 3, "--max-sequences", 2, "--max-delay", 60]
    arguments = [models / "ledger.onnx", "--repository", models, "--access-log", *limits]
    with (
        (folder / "log").open("w") as stderr,
        kit.serving(*arguments, stderr=stderr) as running,
    ):
        made = Keyed(running, keys, folder / "log")
        yield made
        for client in (made.a, made.b, made.root, made.nobody):
            client.triton.close()
    log = (folder / "log").read_text()
    assert "Traceback" not in log
    assert all(line.startswith("{") for line in log.splitlines())
    assert '"method": "ModelInfer", "status": "OK"' in log


def test_without_a_key_there_is_health_alone(keyed):
    triton = keyed.nobody.triton
    assert triton.is_server_live()
    assert triton.is_server_ready()
    wrong = ("", "Bearer", "Bearer a.", "Bearer a.wrong", "Basic x", f"Bearer {'.' * 300}")
    for headers in ({}, *({"authorization": value} for value in wrong)):
        with refused("UNAUTHENTICATED", "API key"):
            triton.get_server_metadata(headers=headers)
        with refused("UNAUTHENTICATED", "API key"):
            triton.infer("ledger", number(1), sequence_id=1, headers=headers)
        with refused("UNAUTHENTICATED", "API key"):
            triton.get_trace_settings(headers=headers)
    with streaming(triton) as answers:
        assert answers.get(timeout=SECONDS)[1].status() == "StatusCode.UNAUTHENTICATED"


def test_each_key_has_its_own_sequences(keyed, kit):
    assert keyed.a.step(1, 5, sequence_start=True) == 5
    with refused("NOT_FOUND", "is not open"):
        keyed.b.step(1, sequence_end=True)
    assert keyed.a.step(1, 6, sequence_end=True) == kit.ledger_of([5, 6])
    assert keyed.b.step(1, 7, sequence_start=True, sequence_end=True) == 7


def test_models_are_changed_by_admins_alone(keyed):
    for call in (keyed.a.triton.load_model, keyed.a.triton.unload_model):
        with refused("PERMISSION_DENIED", "--admin"):
            call("two", headers=keyed.a.headers)
    root = {"headers": keyed.root.headers}
    assert not keyed.root.triton.is_model_ready("two", **root)
    with refused("NOT_FOUND", "not loaded"):
        keyed.root.triton.get_model_metadata("two", **root)
    keyed.root.triton.load_model("two", **root)
    assert keyed.root.triton.is_model_ready("two", **root)
    keyed.root.triton.unload_model("two", **root)
    index = keyed.root.triton.get_model_repository_index(**root).models
    states = {item.name: item.state for item in index}
    assert (states["ledger"], states["two"]) == ("READY", "UNAVAILABLE")
    with refused("NOT_FOUND", "no model"):
        keyed.root.triton.load_model("nobody", **root)


def test_a_full_server_says_when_to_come_again(keyed):
    assert keyed.a.step("idle", sequence_start=True) == 1
    # these wait for `idle` to join their batch
    calls = [client.begun("w", sequence_start=True) for client in (keyed.a, keyed.b)]
    keyed.until(STREAMS, 3)
    with refused("RESOURCE_EXHAUSTED", "no sequence was opened"):
        keyed.b.step("more", sequence_start=True)
    with refused("RESOURCE_EXHAUSTED", "as many sequences .* as this key may have"):
        keyed.a.step("more", sequence_start=True)
    assert _retry_after(keyed, keyed.b, "more") >= 1
    for call, _ in calls:
        call.cancel()
    keyed.until(STREAMS, 1)
    with refused("NOT_FOUND", "is not open"):
        keyed.b.step("w")
    keyed.a.step("idle", sequence_end=True)


def _retry_after(keyed, client, sequence):
    """What the metadata behind a refusal says, which tritonclient does not hand on."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="ledger")
    request.inputs.add(name="x", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(1)
    request.parameters["sequence_id"].string_param = sequence
    request.parameters["sequence_start"].bool_param = True
    with grpcio.insecure_channel(keyed.running.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpcio.RpcError) as caught:
            call(
                request.SerializeToString(), metadata=list(client.headers.items()), timeout=SECONDS
            )
    return int(dict(caught.value.trailing_metadata())["retry-after"])


@pytest.mark.parametrize("how", ["cancelled", "deadline", "stream"])
def test_a_call_that_ends_early_is_taken_back(keyed, kit, how):
    assert keyed.a.step("c", 1, sequence_start=True) == 1
    _, second = keyed.a.begun("idle", 1, sequence_start=True)
    assert keyed.a.step("c", 2) == kit.ledger_of([1, 2])
    assert second.get(timeout=SECONDS)[1] is None
    cancelled = 'rnnonnx_requests_total{endpoint="%s",protocol="grpc",status="CANCELLED"}'
    cancelled %= "ModelStreamInfer" if how == "stream" else "ModelInfer"
    before = keyed.metric(cancelled)
    if how == "stream":
        answers = queue.Queue()
        triton = keyed.a.triton
        triton.start_stream(
            lambda result, error: answers.put((result, error)), headers=keyed.a.headers
        )
        triton.async_stream_infer("ledger", number(9), sequence_id="c")
        keyed.until(QUEUED, 1)
        triton.stop_stream(cancel_requests=True)
    elif how == "cancelled":
        call, answer = keyed.a.begun("c", 9)
        keyed.until(QUEUED, 1)
        call.cancel()
        assert answer.get(timeout=SECONDS)[1].status() == "StatusCode.CANCELLED"
    else:
        with refused("DEADLINE_EXCEEDED", "."):
            keyed.a.step("c", 9, client_timeout=0.3)
    keyed.until(QUEUED, 0)
    keyed.until(cancelled, before + 1)
    # it has had no effect
    _, answer = keyed.a.begun("idle", 1, sequence_end=True)
    assert keyed.a.step("c", 3, sequence_end=True) == kit.ledger_of([1, 2, 3])
    assert answer.get(timeout=SECONDS)[1] is None


def test_an_answer_of_a_stream_waits_for_the_one_before(keyed, kit):
    """A request that is malformed is known to be at once; those of other sequences go on."""
    triton = keyed.a.triton
    assert keyed.a.step("slow", 1, sequence_start=True) == 1
    _, opened = keyed.a.begun("idle", 1, sequence_start=True)
    assert keyed.a.step("slow", 2) == kit.ledger_of([1, 2])
    assert opened.get(timeout=SECONDS)[1] is None
    with streaming(triton, headers=keyed.a.headers) as answers:
        triton.async_stream_infer("ledger", number(3), sequence_id="slow")
        keyed.until(QUEUED, 1)  # it waits for `idle`
        triton.async_stream_infer("ledger", number(3) * 2, sequence_id="slow")
        triton.async_stream_infer("ledger", number(3) * 2, sequence_id="other")
        assert "'x' comes twice" in answers.get(timeout=SECONDS)[1].message()
        assert answers.empty()
        keyed.a.step("idle", 1, sequence_end=True)
        result, error = answers.get(timeout=SECONDS)
        assert error is None
        assert result.as_numpy("y") == kit.ledger_of([1, 2, 3])
        assert "'x' comes twice" in answers.get(timeout=SECONDS)[1].message()
    keyed.a.step("slow", 1, sequence_end=True)


def test_the_rate_counts_every_request_of_a_stream(models, kit):
    with (
        kit.serving(models / "ledger.onnx", "--rate", "5/hour") as running,
        grpc.InferenceServerClient(running.grpc) as triton,
    ):
        with streaming(triton) as answers:
            for turn in range(7):
                flags = {"sequence_id": 1, "sequence_start": turn == 0}
                triton.async_stream_infer("ledger", number(turn), **flags)
            errors = [answers.get(timeout=SECONDS)[1] for _ in range(7)]
        assert [error is None for error in errors] == [True] * 5 + [False] * 2
        assert "more requests than it may; no state has changed" in errors[6].message()
        assert triton.is_server_live()
        with refused("RESOURCE_EXHAUSTED", "more requests than it may"):
            triton.get_server_metadata()


def test_tls(models, kit, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"-keyout {key} -out {certificate} -addext subjectAltName=IP:127.0.0.1"
    kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
    command = ["openssl", "req", *kind.split(), *made.split()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    files = ["--tls-certificate", certificate, "--tls-key", key, "--tls-clients", certificate]
    packing = ["--grpc-compression", "gzip"]
    with kit.serving(models / "ledger.onnx", *files, *packing) as running:
        trust = {"ssl": True, "root_certificates": str(certificate)}
        mine = {"private_key": str(key), "certificate_chain": str(certificate)}
        with grpc.InferenceServerClient(running.grpc, **trust, **mine) as client:
            assert client.is_server_ready()
            flags = {"sequence_start": True, "sequence_end": True}
            done = client.infer("ledger", number(4), sequence_id=1, **flags)
            assert done.as_numpy("y") == 4
        for options in (trust, {}):  # without a certificate, and without TLS
            with (
                grpc.InferenceServerClient(running.grpc, **options) as client,
                refused("UNAVAILABLE", "."),
            ):
                client.is_server_live(client_timeout=5)


async def alone(client, sequence, acknowledged):
    """Step a sequence until the server ends it; how it does."""
    turn = 0
    try:
        while True:
            flags = {"sequence_id": sequence, "sequence_start": turn == 0}
            await client.infer("ledger", number(turn), **flags)
            turn += 1
    except InferenceServerException as error:
        acknowledged[sequence] = turn
        return str(error)


def streamed(address, names, acknowledged):
    """The same of several sequences by one stream, with 100 requests under way."""
    answers = queue.Queue()
    requests = ((name, turn) for turn in itertools.count() for name in names)

    def send():
        name, turn = next(requests)
        flags = {"sequence_id": name, "sequence_start": turn == 0, "request_id": name}
        client.async_stream_infer("ledger", number(turn), **flags)

    with grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for _ in range(100):
            send()
        while True:
            result, error = answers.get(timeout=SECONDS)
            if error is not None:
                return str(error)
            name = result.get_response().id
            acknowledged[name] = acknowledged.get(name, 0) + 1
            with suppress(InferenceServerException):  # the stream has ended
                send()


def test_nothing_is_lost_when_the_server_goes_down(models, kit, tmp_path):
    """Each response has had its effect, and what has none has had none."""
    arguments = [models / "ledger.onnx", "--state-dir", tmp_path / "kept"]
    acknowledged = {}

    async def load(running):
        async with aio.InferenceServerClient(running.grpc) as client:
            working = asyncio.gather(
                *(alone(client, n, acknowledged) for n in range(1, 9)),
                asyncio.to_thread(streamed, running.grpc, ["s1", "s2"], acknowledged),
            )
            await asyncio.sleep(0.7)
            running.process.send_signal(signal.SIGTERM)
            return await asyncio.wait_for(working, SECONDS)

    with kit.serving(*arguments) as running:
        errors = asyncio.run(load(running))
    for error in errors:
        assert error.startswith("[StatusCode.UNAVAILABLE] the server goes down")
    assert running.process.returncode == 0
    assert len(acknowledged) == 10
    assert min(acknowledged.values()) > 3
    with kit.serving(*arguments) as running:
        client = Client(running.grpc)
        for sequence, count in acknowledged.items():
            expected = kit.ledger_of([*range(count), 77])
            assert client.step(sequence, 77, sequence_end=True) == expected, (sequence, count)
        client.triton.close()


def test_a_port_that_is_taken_is_an_error_before_anything_is_served(models, kit):
    with kit.serving(models / "ledger.onnx") as running:
        port = running.grpc.rpartition(":")[2]
        command = [sys.executable, "-m", "rnnonnx.cli", "serve", str(models / "ledger.onnx")]
        done = subprocess.run(
            [*command, "--http-port", "0", "--grpc-port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert not done.stdout
        assert f"port {port} for gRPC" in done.stderr
    with kit.serving(models / "ledger.onnx", "--no-grpc") as running:
        assert running.grpc is None
