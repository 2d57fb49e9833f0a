"""A front and its replicas without Ray: requests that come again, and replicas that go."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("msgspec", reason="the extra serve is not installed")

from rnnonnx.errors import InputError, ModelFileError, StoreError
from rnnonnx.runtime import Model, StatefulSession
from rnnonnx.scale.online import Cluster, StoreAt, run_online
from rnnonnx.scale.online._deployment import free_port
from rnnonnx.scale.online._front import Front, ReplicaGoneError
from rnnonnx.scale.online._messages import Ask
from rnnonnx.scale.online._replica import Replica
from rnnonnx.scale.store import SqliteStore
from rnnonnx.serve import (
    ANYBODY,
    Caller,
    InferRequest,
    Kind,
    Limits,
    ModelFile,
    Pooling,
    RefusedError,
    Settings,
    Step,
    Tls,
)
from rnnonnx.serve.http._codec import read_request, write_response

MOST = 2**20  # bytes of an input


class Several:
    """Replicas in turn; one that is told to go is gone before or after the next step."""

    def __init__(self, replicas):
        self.replicas = replicas
        self.calls = 0
        self.goes = None

    def _next(self):
        self.calls += 1
        return self.replicas[self.calls % len(self.replicas)]

    async def step(self, ask):
        goes, self.goes = self.goes, None
        if goes == "before":
            raise ReplicaGoneError
        told = await self._next().step(ask)
        if goes == "after":
            raise ReplicaGoneError
        return told

    async def step_of(self, stream):
        return await self._next().step_of(stream)


@pytest.fixture
def files(tmp_path, zoo):
    found = {}
    for name in ("lstm", "scaled", "gather"):
        found[name] = tmp_path / f"{name}.onnx"
        found[name].write_bytes(getattr(zoo, name)())
    return found


@pytest.fixture
def online(files, tmp_path):
    """A front over two replicas of each model, with pools of their own and one store."""
    settings = Settings(
        tuple(ModelFile(name, path) for name, path in files.items()),
        limits=Limits(tensor=10_000, waiting=4),
    )
    several, models = {}, {}
    for name, path in files.items():
        replicas = [Replica(path, None, Pooling(), StoreAt(str(tmp_path / "s.db"))) for _ in "ab"]
        several[name] = Several(replicas)
        models[name] = (Model.load(path).manifest, several[name])
    front = Front(settings, models)
    front.several = several
    return front


def frames(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 1, 2, 3)).astype("float32")


def ask(front, x, sequence, *, caller=ANYBODY, model="lstm", **options):
    request = InferRequest(model, {"x": x}, sequence=sequence, **options)
    return asyncio.run(front.infer(caller, request))


def refused(kind, front, *arguments, **options):
    with pytest.raises(RefusedError) as caught:
        ask(front, *arguments, **options)
    assert caught.value.kind is kind, caught.value
    return str(caught.value)


def uninterrupted(files, xs):
    session = StatefulSession(files["lstm"])
    return [session(x) for x in xs]


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("goes", [None, "before", "after"])
def test_each_step_counts_once(online, files, numbered, goes):
    xs = frames(5)
    for step, (x, expected) in enumerate(zip(xs, uninterrupted(files, xs), strict=True)):
        online.several["lstm"].goes = goes
        number = step if numbered else None
        said = ask(online, x, Step("s", step == 0, step == 4, number))
        assert np.array_equal(said.outputs["y"], expected)
        assert said.steps == 2 * (step + 1)
        # what was taken by the one that went is what the other one gives
        assert said.replayed is (goes == "after")


def test_a_client_asks_again(online):
    xs = frames(3)
    for step in range(3):
        wanted = Step(7, step == 0, step == 2, step)
        first, again = (ask(online, xs[step], wanted) for _ in "ab")
        assert (first.replayed, again.replayed) == (False, True)
        assert np.array_equal(first.outputs["y"], again.outputs["y"])
        assert first.steps == again.steps == 2 * (step + 1)
    # it has ended, and may begin anew, with another request or the same
    assert "ended" in refused(Kind.NOT_FOUND, online, xs[0], Step(7, number=3))
    assert ask(online, xs[0], Step(7, start=True, number=0)).steps == 2
    assert ask(online, xs[0], Step(7, start=True, number=0)).replayed


def test_without_numbers_nothing_is_taken_for_another(online, files):
    (x,) = frames(1)
    expected = uninterrupted(files, [x, x])
    assert np.array_equal(ask(online, x, Step("s", start=True)).outputs["y"], expected[0])
    assert np.array_equal(ask(online, x, Step("s")).outputs["y"], expected[1])
    assert "open already" in refused(Kind.CONFLICT, online, x, Step("s", start=True))
    assert ask(online, x, Step("s", end=True)).steps == 6
    assert "not open" in refused(Kind.NOT_FOUND, online, x, Step("s"))
    assert ask(online, x, Step("s", start=True)).steps == 2


def test_numbers_that_are_not_the_next_one(online):
    x, other = frames(2)
    assert "not open" in refused(Kind.NOT_FOUND, online, x, Step("s", number=1))
    for step in range(3):
        ask(online, x, Step("s", step == 0, number=step))
    assert "sequence_request 3" in refused(Kind.CONFLICT, online, x, Step("s", number=1))
    assert "sequence_request 3" in refused(Kind.CONFLICT, online, x, Step("s", number=9))
    assert "sequence_request 3" in refused(
        Kind.CONFLICT, online, other, Step("s", start=True, number=0)
    )
    assert "sequence_request 3" in refused(Kind.CONFLICT, online, other, Step("s", number=2))
    assert ask(online, x, Step("s", number=3)).steps == 8
    for start, number in ((True, 1), (False, 0), (True, -1)):
        with pytest.raises(RefusedError, match="sequence_start"):
            Step("s", start, number=number)


def test_sequences_are_their_owners_and_models(online):
    x = frames(1)[0]
    one, two = Caller("one", admin=False), Caller("two", admin=False)
    assert ask(online, x, Step(7, start=True), caller=one).steps == 2
    assert ask(online, x, Step(7, start=True), caller=two).steps == 2
    assert ask(online, x, Step("7", start=True), caller=two).steps == 2
    refused(Kind.NOT_FOUND, online, x, Step("7"), caller=one)
    request = InferRequest("gather", {"i": np.array([[1]])}, sequence=Step(7, start=True))
    assert asyncio.run(online.infer(one, request)).outputs["y"] == [11]


def test_what_is_refused_changes_nothing(online):
    x = frames(1)[0]
    ask(online, x, Step("s", start=True, number=0))
    bad = {
        "wrong shape": x[:, :, :2],
        "wrong dtype": x.astype("float64"),
        "empty batch": x[:0],
    }
    for value in bad.values():
        assert "as it was" in refused(Kind.INVALID, online, value, Step("s", number=1))
    large = np.zeros((1, 1000, 3), "float32")
    assert "larger" in refused(Kind.TOO_LARGE, online, large, Step("s", number=1))
    assert "no sequence" in refused(Kind.INVALID, online, x, None)
    refused(Kind.NOT_FOUND, online, x, Step("s"), model="other")
    refused(Kind.NOT_FOUND, online, x, Step("s"), version="2")
    assert ask(online, x, Step("s", number=1)).steps == 4
    request = InferRequest("gather", {"i": np.array([[99]])}, sequence=Step(1, start=True))
    with pytest.raises(RefusedError) as caught:
        asyncio.run(online.infer(ANYBODY, request))
    assert caught.value.kind is Kind.FAILED


def test_a_model_without_states(online):
    feed = {"x": np.ones((2, 1, 3), "float32"), "w": np.ones((2, 2), "float32")}
    feed["factor"] = np.array(3, "float32")
    said = asyncio.run(online.infer(ANYBODY, InferRequest("scaled", feed, outputs=("z",))))
    assert list(said.outputs) == ["z"]
    assert said.steps is None
    assert not online.metadata("scaled").stateful
    assert online.metadata("lstm").stateful


def test_requests_of_a_sequence_stand_in_line(online):
    async def all_at_once():
        requests = [
            InferRequest("lstm", {"x": x}, sequence=Step("s", step == 0, number=step))
            for step, x in enumerate(frames(4))
        ]
        return await asyncio.gather(*(online.infer(ANYBODY, request) for request in requests))

    assert [said.steps for said in asyncio.run(all_at_once())] == [2, 4, 6, 8]


def test_more_requests_than_may_wait(online):
    async def all_at_once():
        requests = [
            InferRequest("lstm", {"x": x}, sequence=Step(i + 1, start=True))
            for i, x in enumerate(frames(6))
        ]
        calls = (online.infer(ANYBODY, request) for request in requests)
        return await asyncio.gather(*calls, return_exceptions=True)

    said = asyncio.run(all_at_once())
    full = [one for one in said if isinstance(one, RefusedError)]
    assert len(full) == 2
    assert all(one.kind is Kind.FULL and one.retry_after for one in full)


def test_no_replica_for_long(online, monkeypatch):
    async def gone(_ask):
        raise ReplicaGoneError("all dead")

    monkeypatch.setattr("rnnonnx.scale.online._front.PATIENCE", 0.1)
    monkeypatch.setattr(online.several["lstm"], "step", gone)
    text = refused(Kind.UNAVAILABLE, online, frames(1)[0], Step("s", start=True, number=0))
    assert "comes again" in text


def test_a_store_that_is_gone(files, tmp_path):
    (tmp_path / "states").mkdir()
    replica = Replica(files["lstm"], None, Pooling(), StoreAt(str(tmp_path / "states" / "s.db")))
    (tmp_path / "states" / "s.db").unlink()
    (tmp_path / "states" / "s.db").mkdir()
    told = asyncio.run(replica.step(Ask({"x": frames(1)[0]}, None, "s")))
    error = told.error()
    assert error.kind is Kind.UNAVAILABLE
    assert error.retry_after
    assert "when it comes again" in str(error)


def test_what_has_no_meaning_here(online):
    for call in (online.load, online.unload):
        with pytest.raises(RefusedError, match="those of the start"):
            asyncio.run(call(ANYBODY, "lstm", None))
    with pytest.raises(RefusedError, match="statistics"):
        online.statistics("lstm")
    assert [entry.name for entry in online.index()] == ["gather", "lstm", "scaled"]
    assert online.is_ready("lstm")
    assert online.ready
    assert "statistics" not in online.extensions


def test_the_number_on_the_wire(online):
    def body(**parameters):
        x = {"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        return json.dumps({"inputs": [x], "parameters": parameters}).encode()

    parsed = read_request(
        "lstm", "", body(sequence_id=1, sequence_start=True, sequence_request=0), None, most=MOST
    )
    for replayed in (False, True):
        said = asyncio.run(online.infer(ANYBODY, parsed.request))
        content, _ = write_response(parsed, said)
        parameters = json.loads(content)["parameters"]
        assert parameters["sequence_request"] == 0
        assert parameters["sequence_replayed"] is replayed
        assert parameters["sequence_steps"] == 1
    for wrong in (-1, 1.0, "0", True, 2**63):
        with pytest.raises(RefusedError, match="sequence_request"):
            read_request("lstm", "", body(sequence_id=1, sequence_request=wrong), None, most=MOST)


# --- what is started -------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [{"replicas": 0}, {"fronts": 0}, {"cpus": -1.0}])
def test_clusters_that_are_none(counts):
    with pytest.raises(InputError, match="cluster"):
        Cluster(**counts)


def test_stores_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = StoreAt("s.db", expiry=5.0).whole()
    assert whole == StoreAt(str(tmp_path / "s.db"), 5.0)
    assert not whole.shared
    store = whole()
    assert isinstance(store, SqliteStore)
    store.close()
    assert StoreAt("redis://127.0.0.1:1/0").whole().shared
    with pytest.raises(StoreError, match="does not exist"):
        StoreAt("nowhere/s.db")()


def test_ports():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            free_port("127.0.0.1", port)
        assert free_port("127.0.0.1", 0) not in (0, port)
    assert free_port("127.0.0.1", port) == port
    with pytest.raises(InputError, match="cannot listen on 203"):
        free_port("203.0.113.1", 0)  # an address of nobody


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"state_folder": Path()}, "--state-dir"),
        ({"repository": Path()}, "--repository"),
        ({"limits": Limits(sequences=3)}, "--max-sequences"),
        ({"tls": Tls(Path("c"), Path("k"), Path("a"))}, "--tls-clients"),
    ],
)
def test_settings_that_have_no_meaning_here(files, options, named):
    pytest.importorskip("ray.serve", reason="Ray is not installed")
    settings = Settings((ModelFile("lstm", files["lstm"]),), **options)
    with pytest.raises(InputError, match=named):
        run_online(settings, Cluster(), StoreAt("s.db"), print)


def test_what_is_wrong_is_told_before_ray_starts(files, tmp_path):
    pytest.importorskip("ray.serve", reason="Ray is not installed")
    settings = Settings((ModelFile("lstm", files["lstm"]),), http_port=0)
    with pytest.raises(StoreError, match="Redis"):
        run_online(settings, Cluster(), StoreAt("redis://127.0.0.1:1/0"), print)
    (tmp_path / "lstm.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        run_online(settings, Cluster(), StoreAt(str(tmp_path / "s.db")), print)


def test_options_of_another_engine(files):
    command = [sys.executable, "-m", "rnnonnx.cli", "serve", files["lstm"], "--replicas", "3"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert out.returncode == 2
    assert "--replicas" in out.stderr
    assert "--engine ray" in out.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_missing(files):
    settings = Settings((ModelFile("lstm", files["lstm"]),))
    with pytest.raises(ImportError, match=r"rnnonnx\[ray\]"):
        run_online(settings, Cluster(), StoreAt("s.db"), print)


def test_a_ray_without_the_router(monkeypatch, caplog):
    pytest.importorskip("ray.serve", reason="Ray is not installed")
    from rnnonnx.scale.online import _router

    assert _router.has_affinity()
    assert _router.routing()
    monkeypatch.setitem(sys.modules, _router.ROUTER, None)
    assert not _router.has_affinity()
    assert _router.routing() == {}
    assert "no router by session" in caplog.text
    handle = object()
    assert _router.by_session(handle, "s", affinity=False) is handle
