"""States in a store: compare-and-set, requests that come again, and what is refused."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rnnonnx.errors import (
    InputError,
    MissingExtraError,
    StateFileError,
    StepConflictError,
    StoreError,
)
from rnnonnx.runtime import Model, StatefulSession, StreamPool
from rnnonnx.scale.store import Entry, Mark, RedisStore, SqliteStore, StoredStreams
from rnnonnx.scale.store._answer import digest, pack, unpack

from .._benchmarks import load


@pytest.fixture(scope="module")
def redis_url():
    pytest.importorskip("redis", reason="redis-py is not installed")
    module = load("_redis_server")
    if module.PROGRAM is None:
        pytest.skip("there is no redis-server; Debian: apt-get install redis-server")
    with module.redis_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def make_store(request, tmp_path):
    """Makes stores that share one content."""
    made = []
    prefix = f"{request.node.name}:"

    def make(**options):
        if request.param == "sqlite":
            store = SqliteStore(tmp_path / "states.db", **options)
        else:
            url = request.getfixturevalue("redis_url")
            store = RedisStore(url, prefix=prefix, **options)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store):
    return make_store()


def entry(step, life="a", state=b"state", request="r", answer=b"answer"):
    return Entry(Mark(step, life), state, request, answer)


# --- the stores ------------------------------------------------------------------------------


def test_what_is_put_is_got(store, make_store):
    assert store.get("s") is None
    first = entry(1, state=bytes(range(256)), request="frage ü", answer=b"")
    assert store.put("s", first, expected=None)
    assert store.get("s") == first
    assert make_store().get("s") == first
    assert store.get("S") is None


def test_compare_and_set(store):
    assert not store.put("s", entry(2), expected=Mark(1, "a"))
    assert store.put("s", entry(1), expected=None)
    assert not store.put("s", entry(1, life="b"), expected=None)
    for mark in (Mark(0, "a"), Mark(2, "a"), Mark(1, "b")):
        assert not store.put("s", entry(2, state=b"other"), expected=mark)
    assert store.get("s") == entry(1)
    assert store.put("s", entry(2), expected=Mark(1, "a"))
    assert store.get("s") == entry(2)


def test_delete(store):
    store.put("s", entry(1), expected=None)
    assert store.delete("s")
    assert not store.delete("s")
    assert store.get("s") is None
    assert not store.put("s", entry(2), expected=Mark(1, "a"))
    assert store.put("s", entry(1, life="b"), expected=None)


def test_expiry(make_store):
    store = make_store(expiry=0.2)
    store.put("s", entry(1), expected=None)
    assert store.get("s") == entry(1)
    time.sleep(0.12)
    assert store.put("s", entry(2), expected=Mark(1, "a"))
    time.sleep(0.12)
    assert store.get("s") == entry(2), "a step did not begin its time anew"
    time.sleep(0.25)
    assert store.get("s") is None
    assert not store.put("s", entry(3), expected=Mark(2, "a"))
    assert store.put("s", entry(1, life="b"), expected=None)
    assert store.get("s") == entry(1, life="b")


def test_one_of_many_writers_wins(make_store):
    stores = [make_store() for _ in range(4)]
    stores[0].put("s", entry(0), expected=None)

    def write(number):
        wins = 0
        for step in range(25):
            while (there := stores[number].get("s")).mark.step == step:
                mine = entry(step + 1, state=str(number).encode())
                wins += stores[number].put("s", mine, expected=there.mark)
        return wins

    with ThreadPoolExecutor(4) as pool:
        wins = sum(pool.map(write, range(4)))
    assert wins == stores[0].get("s").mark.step == 25


@pytest.mark.parametrize("stream", ["", 3, None, "\ud800"])
def test_ids_that_are_none(store, stream):
    for call in (store.get, store.delete, lambda s: store.put(s, entry(1), expected=None)):
        with pytest.raises(InputError, match="id"):
            call(stream)


@pytest.mark.parametrize("expiry", [0, -1, float("nan"), "1", True])
def test_expiries_that_are_none(make_store, expiry):
    with pytest.raises(InputError, match="expiry"):
        make_store(expiry=expiry)


def test_sqlite_removes_what_has_expired(tmp_path):
    store = SqliteStore(tmp_path / "s.db", expiry=0.1)
    for i in range(5):
        store.put(str(i), entry(1), expected=None)
    time.sleep(0.15)
    store.put("last", entry(1), expected=None)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        assert connection.execute("SELECT id FROM streams").fetchall() == [("last",)]
    connection.close()
    store.close()


def test_sqlite_files_that_are_none(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 99)
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE things (a)")
    connection.close()
    for name in ("text", "other", "gone/states.db", "."):
        with pytest.raises(StoreError):
            SqliteStore(tmp_path / name)
    assert (tmp_path / "text").read_text().startswith("no database")


def test_sqlite_in_a_process_that_was_forked(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    store.put("s", entry(1), expected=None)
    child = os.fork()
    if not child:
        os._exit(0 if store.put("s", entry(2), expected=Mark(1, "a")) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get("s") == entry(2)
    store.close()


def test_redis_that_is_not_there():
    pytest.importorskip("redis", reason="redis-py is not installed")
    store = RedisStore("redis://127.0.0.1:1/0")
    for call in (store.get, store.delete, lambda s: store.put(s, entry(1), expected=None)):
        with pytest.raises(StoreError, match="Redis failed"):
            call("s")
    with pytest.raises(StoreError, match="no URL"):
        RedisStore("localhost")


def test_redis_keys_of_others(redis_url):
    import redis

    client = redis.Redis.from_url(redis_url)
    client.hset(
        "other:s", mapping=dict.fromkeys(("step", "life", "state", "request", "answer"), "x")
    )
    client.set("other:t", "text")
    store = RedisStore(client, prefix="other:")
    for stream in "st":
        with pytest.raises(StoreError):
            store.get(stream)
    client.close()


def test_redis_py_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match="'redis', which is not installed"):
        RedisStore("redis://127.0.0.1:1/0")


# --- streams over them -----------------------------------------------------------------------


@pytest.fixture
def replicas(lstm, make_store):
    """Two processes' worth of streams: pools and stores of their own, one content."""
    with (
        StreamPool(lstm, capacity=3) as left,
        StreamPool(lstm, capacity=3) as right,
        StoredStreams(left, make_store()) as first,
        StoredStreams(right, make_store()) as second,
    ):
        yield first, second


def frames(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 1, 1, 3)).astype("float32")


def uninterrupted(model, xs):
    session = StatefulSession(model)
    return [session(x) for x in xs]


def test_a_stream_wanders(replicas, lstm):
    xs = frames(12)
    for step, (x, expected) in enumerate(zip(xs, uninterrupted(lstm, xs), strict=True)):
        answer = replicas[step // 2 % 2].run("s", step, {"x": x})
        assert (answer.step, answer.replayed) == (step + 1, False)
        assert np.array_equal(answer.outputs[0], expected)
    assert replicas[0].step_of("s") == 12
    assert replicas[0].step_of("t") is None


def test_a_request_that_comes_again(replicas, lstm):
    xs = frames(3)
    expected = uninterrupted(lstm, xs)
    for step in range(3):
        replicas[0].run("s", step, {"x": xs[step]})
        for replica in (*replicas, *replicas):
            again = replica.run("s", step, {"x": xs[step]})
            assert (again.step, again.replayed) == (step + 1, True)
            assert np.array_equal(again.outputs[0], expected[step])
    assert replicas[0].pool.stats().steps == 3
    assert replicas[1].pool.stats().steps == 0


def test_requests_have_ids(replicas):
    xs = frames(2)
    first = replicas[0].run("s", 0, {"x": xs[0]}, request="a")
    again = replicas[1].run("s", 0, {"x": xs[1]}, request="a")
    assert again.replayed
    assert np.array_equal(again.outputs[0], first.outputs[0])
    with pytest.raises(StepConflictError, match="another request"):
        replicas[1].run("s", 0, {"x": xs[0]}, request="b")


def test_steps_that_are_not_the_next_one(replicas):
    xs = frames(4)
    with pytest.raises(StepConflictError, match="no stream 's'") as caught:
        replicas[0].run("s", 1, {"x": xs[0]})
    assert caught.value.step is None
    for step in range(3):
        replicas[0].run("s", step, {"x": xs[step]})
    for replica in replicas:
        for step in (0, 1, 4, 9):
            with pytest.raises(StepConflictError) as caught:
                replica.run("s", step, {"x": xs[0]})
            assert caught.value.step == 3
        with pytest.raises(StepConflictError, match="another request"):
            replica.run("s", 2, {"x": xs[3]})
    assert not replicas[1].run("s", 3, {"x": xs[3]}).replayed
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (copy.step, str(copy)) == (3, str(caught.value))


def test_a_stream_that_ends_and_begins_again(replicas, lstm):
    xs, ys = frames(3), frames(3, seed=1)
    for step in range(2):
        replicas[0].run("s", step, {"x": xs[step]})
    assert replicas[1].end("s")
    assert not replicas[1].end("s")
    for step in range(2):
        replicas[1].run("s", step, {"x": ys[step]})
    # the copy that the first one has is at step 2, too, but of the old stream
    answer = replicas[0].run("s", 2, {"x": ys[2]})
    assert np.array_equal(answer.outputs[0], uninterrupted(lstm, ys)[2])


def test_a_last_step_that_comes_again(replicas, lstm):
    xs, ys = frames(3), frames(3, seed=1)
    for step in range(2):
        replicas[0].run("s", step, {"x": xs[step]})
    last = replicas[0].run("s", 2, {"x": xs[2]}, end=True)
    for replica in (*replicas, *replicas):
        again = replica.run("s", 2, {"x": xs[2]}, end=True)
        assert (again.step, again.replayed, again.time_steps) == (3, True, 3)
        assert np.array_equal(again.outputs[0], last.outputs[0])
        assert replica.step_of("s") is None
        # it has ended: neither goes it on, nor was this the request
        for step, end in ((3, False), (2, False), (1, False)):
            with pytest.raises(StepConflictError, match="ended") as caught:
                replica.run("s", step, {"x": xs[step % 3]}, end=end)
            assert caught.value.step is None
    # another one of its name, from the initial state
    for step in range(3):
        answer = replicas[step % 2].run("s", step, {"x": ys[step]})
        assert (answer.replayed, answer.time_steps) == (False, step + 1)
        assert np.array_equal(answer.outputs[0], uninterrupted(lstm, ys)[step])


def test_a_stream_of_one_step(replicas, lstm):
    (x,) = frames(1)
    for replayed in (False, True):
        answer = replicas[replayed].run("s", 0, {"x": x}, end=True)
        assert answer.replayed is replayed
    answer = replicas[0].run("s", 0, {"x": x})
    assert (answer.replayed, answer.step) == (False, 1)
    assert replicas[1].step_of("s") == 1
    with pytest.raises(StepConflictError, match="another request"):
        replicas[1].run("s", 0, {"x": x}, end=True)


def test_more_streams_than_places(replicas, lstm):
    expected = {i: uninterrupted(lstm, frames(4, seed=i)) for i in range(10)}
    for step in range(4):
        for i in range(10):
            answer = replicas[0].run(str(i), step, {"x": frames(4, seed=i)[step]})
            assert np.array_equal(answer.outputs[0], expected[i][step])
    assert len(replicas[0].pool) == 3


def test_threads_that_ask_the_same(replicas, lstm):
    xs = frames(8)
    expected = uninterrupted(lstm, xs)
    with ThreadPoolExecutor(8) as threads:
        for step in range(8):
            asked = [
                threads.submit(replicas[i % 2].run, "s", step, {"x": xs[step]}) for i in range(8)
            ]
            answers = [future.result() for future in asked]
            assert sum(not answer.replayed for answer in answers) == 1
            assert all(np.array_equal(a.outputs[0], expected[step]) for a in answers)
    assert replicas[0].step_of("s") == 8


def test_asyncio(replicas, lstm):
    xs = frames(6)

    async def all_streams():
        for step in range(6):
            calls = [replicas[0].arun(str(i), step, {"x": xs[step]}) for i in range(3)]
            yield await asyncio.gather(*calls)

    async def collect():
        return [answers async for answers in all_streams()]

    for answers, expected in zip(asyncio.run(collect()), uninterrupted(lstm, xs), strict=True):
        assert all(np.array_equal(answer.outputs[0], expected) for answer in answers)


def test_a_request_that_fails_does_not_count(replicas, lstm):
    xs = frames(2)
    replicas[0].run("s", 0, {"x": xs[0]})
    with pytest.raises(InputError):
        replicas[0].run("s", 1, {"x": xs[1].astype("float64")})
    with pytest.raises(InputError, match="`step`"):
        replicas[0].run("s", -1, {"x": xs[1]})
    with pytest.raises(InputError, match="`step`"):
        replicas[0].run("s", True, {"x": xs[1]})
    answer = replicas[0].run("s", 1, {"x": xs[1]})
    assert np.array_equal(answer.outputs[0], uninterrupted(lstm, xs)[1])


def test_a_state_of_another_model(replicas, make_store, zoo):
    replicas[0].run("s", 0, {"x": frames(1)[0]})
    other = Model.load(zoo.masked_lstm())
    with StreamPool(other, capacity=2) as pool, StoredStreams(pool, make_store()) as streams:
        with pytest.raises(StateFileError, match="another model"):
            streams.run("s", 1, {"x": frames(1)[0], "m": np.ones((1, 1), bool)})
        assert len(pool) == 0


class Slow:
    """A store whose `put` waits; without its comparison, if so asked."""

    def __init__(self, inner, *, compares):
        self.inner, self.compares = inner, compares
        self.waits, self.goes = threading.Event(), threading.Event()

    def get(self, stream):
        return self.inner.get(stream)

    def put(self, stream, entry, *, expected):
        self.waits.set()
        assert self.goes.wait(20)
        if not self.compares:
            there = self.inner.get(stream)
            expected = None if there is None else there.mark
        return self.inner.put(stream, entry, expected=expected)

    def delete(self, stream):
        return self.inner.delete(stream)

    def close(self):
        self.inner.close()


@pytest.mark.parametrize("compares", [True, False], ids=["as it is", "without comparing"])
def test_a_writer_that_comes_late(lstm, make_store, compares):
    xs = frames(5)
    slow = Slow(make_store(), compares=compares)
    with (
        StreamPool(lstm) as left,
        StreamPool(lstm) as right,
        StoredStreams(left, slow) as late,
        StoredStreams(right, make_store()) as quick,
        ThreadPoolExecutor(1) as thread,
    ):
        quick.run("s", 0, {"x": xs[0]})
        stuck = thread.submit(late.run, "s", 1, {"x": xs[1]})
        assert slow.waits.wait(20)
        for step in (1, 2, 3):  # asked again elsewhere, and on
            quick.run("s", step, {"x": xs[step]})
        slow.goes.set()
        if not compares:  # the negative control: two steps are lost, and it shows
            stuck.result()
            assert quick.step_of("s") == 2
            return
        with pytest.raises(StepConflictError):
            stuck.result()
        answer = quick.run("s", 4, {"x": xs[4]})
        assert np.array_equal(answer.outputs[0], uninterrupted(lstm, xs)[4])


class Failing(Slow):
    """A store that fails in `put`, after it has written or before."""

    def __init__(self, inner, *, writes):
        super().__init__(inner, compares=True)
        self.goes.set()
        self.fails, self.writes = False, writes

    def put(self, stream, entry, *, expected):
        if not self.fails:
            return self.inner.put(stream, entry, expected=expected)
        if self.writes:
            self.inner.put(stream, entry, expected=expected)
        raise StoreError("the connection is lost")


@pytest.mark.parametrize("writes", [True, False])
def test_a_store_that_fails(lstm, make_store, writes):
    xs = frames(4)
    expected = uninterrupted(lstm, xs)
    store = Failing(make_store(), writes=writes)
    with StreamPool(lstm) as pool, StoredStreams(pool, store) as streams:
        for step in range(4):
            store.fails = step % 2 == 1
            if store.fails:
                with pytest.raises(StoreError):
                    streams.run("s", step, {"x": xs[step]})
                store.fails = False
            answer = streams.run("s", step, {"x": xs[step]})
            assert answer.replayed == (writes and step % 2 == 1)
            assert np.array_equal(answer.outputs[0], expected[step])


# --- requests and answers --------------------------------------------------------------------


def test_answers_are_kept_as_they_are():
    outputs = [np.arange(6, dtype="int64").reshape(1, 2, 3)[..., ::2], np.zeros((1, 0), "float16")]
    outputs.append(np.array([[True]]))
    again, time_steps = unpack(pack(["b", "a", "b"], outputs, 2**40))
    assert time_steps == 2**40
    for left, right in zip(outputs, again, strict=True):
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)
    again[0][:] = 1
    with pytest.raises(StoreError, match="answer"):
        unpack(b"something else")


def test_requests_differ_in_all_that_they_ask():
    x = np.zeros((1, 2), "float32")
    asked = [
        ({"x": x}, None),
        ({"x": x}, ["y"]),
        ({"x": x}, ["y", "z"]),
        ({"y": x}, None),
        ({"x": x.T}, None),
        ({"x": x.astype("int32")}, None),
        ({"x": x + 1}, None),
        ({"x": x, "y": x}, None),
    ]
    assert len({digest(*request) for request in asked}) == len(asked)
    assert digest({"x": x, "y": x}, None) == digest({"y": x.copy(), "x": x}, None)
