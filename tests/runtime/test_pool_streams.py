"""Streams come and go: opening, closing, waiting for room, eviction, snapshots, the pool's end."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from rnnonnx.errors import (
    PartialRunError,
    PoolClosedError,
    PoolError,
    PoolFullError,
    QueueFullError,
    StateFileError,
    StreamClosedError,
)
from rnnonnx.runtime import StatefulSession, StreamPool


def one(value):
    return np.array([[value]])


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def background(call, *args, **kwargs):
    """A thread that runs a call, and a list that gets what it returned or raised."""
    result = []

    def work():
        try:
            result.append(call(*args, **kwargs))
        except (PoolError, PartialRunError) as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, result


# --- opening and closing --------------------------------------------------------------------


def test_ids_are_taken_once_and_free_again(ledger):
    with StreamPool(ledger, capacity=2) as pool:
        first = pool.open("a")
        first(one(5))
        assert pool.ids == ("a",)
        assert "a" in pool
        assert len(pool) == 1
        with pytest.raises(PoolError, match="open already"):
            pool.open("a")
        first.close()
        first.close()
        assert first.closed
        again = pool.open("a")
        assert again(one(7)) == 7, "a new stream begins anew"
        for call in (lambda: first(one(1)), first.snapshot, first.reset, lambda: first.steps):
            with pytest.raises(StreamClosedError, match="'a' has been closed"):
                call()
        assert pool.stats().opened == 2
        assert pool.stats().closed == 1
        with pool.open("b") as other:
            assert repr(other) == "<Stream 'b': open>"
        assert other.closed
        assert repr(other) == "<Stream 'b': has been closed>"


@pytest.mark.parametrize("bad", [3, None, b"a"])
def test_ids_are_text(ledger, bad):
    with StreamPool(ledger) as pool, pytest.raises(PoolError, match="no text"):
        pool.open(bad)


def test_a_full_pool_refuses_or_waits(ledger):
    with StreamPool(ledger, capacity=2) as pool:
        streams = [pool.open("a"), pool.open("b")]
        with pytest.raises(PoolFullError, match="2 streams are open"):
            pool.open("c")
        start = time.monotonic()
        with pytest.raises(PoolFullError):
            pool.open("c", wait=0.05)
        assert time.monotonic() - start >= 0.05
        thread, result = background(pool.open, "c", wait=math.inf)
        until(lambda: pool._registry.places._line)
        with pytest.raises(PoolFullError):
            pool.open("d")
        streams[0].close()
        thread.join(10)
        assert result[0].id == "c"
        assert pool.ids == ("b", "c")
        assert pool.stats().refused == 3


def test_closing_fails_what_is_queued_and_keeps_what_runs(ledger):
    with StreamPool(ledger, capacity=2) as pool:
        stream, other = pool.open("a"), pool.open("b")
        with pool._engine.exclusive():
            queued = [stream.submit(None, {"x": one(1)}) for _ in range(3)]
            kept = other.submit(None, {"x": one(1)})
            stream.close()
            assert pool.open("c").id == "c", "its place is free at once"
        for future in queued:
            with pytest.raises(StreamClosedError):
                future.result(10)
        assert kept.result(10)[0] == 1


def test_closing_during_a_batch_frees_the_row_afterwards(zoo):
    with StreamPool(zoo.lstm(), capacity=1) as pool:
        for i in range(20):
            stream = pool.open(str(i))
            future = stream.submit(None, {"x": zoo.sequence(1, 4000)})
            if i % 2:
                until(lambda: pool.stats().queued == 0)
            stream.close()
            try:
                assert future.result(10)[0].shape == (1, 4000, 3)
            except StreamClosedError:
                assert not i % 2
            fresh = pool.open("fresh", wait=5)
            expected = StatefulSession(pool.model)(zoo.sequence(1, 3))
            assert np.array_equal(fresh(zoo.sequence(1, 3)), expected)
            fresh.close()


# --- the queue ------------------------------------------------------------------------------


def test_a_full_queue_refuses_or_waits(ledger):
    with StreamPool(ledger, capacity=4, max_queue=2) as pool:
        stream = pool.open("a")
        with pool._engine.exclusive():
            queued = [stream.submit(None, {"x": one(i)}) for i in range(2)]
            with pytest.raises(QueueFullError, match="2 requests wait"):
                stream.submit(None, {"x": one(9)})
            with pytest.raises(QueueFullError):
                stream.run(None, {"x": one(9)}, wait=0.02)
            thread, result = background(stream.run, None, {"x": one(2)}, wait=10)
            until(lambda: pool._engine.queue._line)
        thread.join(10)
        assert [future.result(10)[0][0, 0] for future in queued] == [0, 1]
        assert result[0][0] == 1000003 + 2
        assert stream.steps == 3
        assert pool.stats().queued == 0
        assert pool._engine.queue.used == 0


def test_who_comes_later_does_not_overtake_who_waits_for_a_place(ledger):
    with StreamPool(ledger, capacity=4, max_queue=1) as pool:
        held, first, later = (pool.open(key) for key in "abc")
        with pool._engine.hold(held._seat):
            queued = held.submit(None, {"x": one(1)})
            assert later.run(None, {"x": one(3)})[0] == 3  # at once: it needs no place
            thread, result = background(first.submit, None, {"x": one(2)}, wait=10)
            until(lambda: pool._engine.queue._line)
            with pytest.raises(QueueFullError):
                later.run(None, {"x": one(4)})
        thread.join(10)
        assert result[0].result(10)[0] == 2
        assert queued.result(10)[0] == 1
        assert later.steps == 1


def test_who_waits_for_a_place_is_not_idle(ledger):
    with StreamPool(ledger, capacity=4, max_queue=1, idle_timeout=0.05) as pool:
        held, waiting, idle = (pool.open(key) for key in "abc")
        with pool._engine.hold(held._seat):
            queued = held.submit(None, {"x": one(1)})
            thread, result = background(waiting.submit, None, {"x": one(2)}, wait=10)
            until(lambda: idle.closed)
            time.sleep(0.2)
            assert not waiting.closed
        thread.join(10)
        assert result[0].result(10)[0] == 2
        assert queued.result(10)[0] == 1
        until(lambda: waiting.closed)  # it is idle now


@pytest.mark.parametrize("wait", [0.02, 10])
def test_who_gives_up_waiting_for_a_place_is_idle_again(ledger, wait):
    with StreamPool(ledger, capacity=4, max_queue=1, idle_timeout=0.1) as pool:
        held, waiting = pool.open("a"), pool.open("b")
        with pool._engine.hold(held._seat):
            held.submit(None, {"x": one(1)})
            thread, result = background(waiting.submit, None, {"x": one(2)}, wait=wait)
            if wait > 1:
                until(lambda: pool._engine.queue._line)
                waiting.close()
                pool._engine.queue.shut()
            thread.join(10)
            assert isinstance(result[0], PoolError)
            assert waiting._seat.awaited == 0
            until(lambda: waiting.closed)


def test_run_many_larger_than_the_queue(ledger):
    with StreamPool(ledger, capacity=9, max_queue=2) as pool:
        streams = [pool.open(str(i)) for i in range(9)]
        x = np.arange(9).reshape(9, 1)
        assert np.array_equal(pool.run_many(streams, x), x)


def test_run_many_that_ends_half_way_says_how_far_it_came(ledger):
    with StreamPool(ledger, capacity=6, max_batch=2) as pool:
        streams = [pool.open(str(i)) for i in range(6)]
        with pool._engine.exclusive():
            thread, result = background(pool.run_many, streams, np.arange(6).reshape(6, 1))
            until(lambda: pool.stats().queued == 2)
            streams[4].close()
        thread.join(10)
        (error,) = result
        assert isinstance(error, PartialRunError)
        assert sorted(error.errors) == ["4", "5"]
        assert all(isinstance(e, StreamClosedError) for e in error.errors.values())
        assert error.outputs[0][:, 0].tolist() == [0, 1, 2, 3, 0, 0]
        assert streams[5].steps == 0


def test_the_first_waits_for_company_no_longer_than_max_delay(ledger):
    with StreamPool(ledger, capacity=4, max_delay=0.3, max_batch=2) as pool:
        streams = [pool.open(str(i)) for i in range(3)]
        start = time.monotonic()
        streams[0](one(1))
        assert time.monotonic() - start >= 0.25
        start = time.monotonic()
        for future in [s.submit(None, {"x": one(1)}) for s in streams[:2]]:
            future.result(10)
        assert time.monotonic() - start < 0.25, "a full batch does not wait"
        assert pool.stats().batches == 2
        streams[1].close()
        streams[2].close()
        start = time.monotonic()
        streams[0](one(1))
        assert time.monotonic() - start < 0.25, "nobody else could come"


def test_a_cancelled_future_never_runs(ledger):
    with StreamPool(ledger, capacity=2) as pool:
        stream = pool.open("a")
        with pool._engine.exclusive():
            futures = [stream.submit(None, {"x": one(i)}) for i in (1, 2, 3)]
            assert futures[1].cancel()
            assert pool.stats().queued == 2
        assert futures[2].result(10)[0] == 1000003 + 3
        assert not futures[2].cancel()
        assert stream.steps == 2


def test_a_callback_may_use_the_pool(ledger):
    with StreamPool(ledger, capacity=3) as pool:
        stream, other = pool.open("a"), pool.open("b")
        seen = []

        def callback(_future):
            seen.append(stream(one(1)))
            other.reset()
            seen.append(pool.run_many([stream, other], np.array([[1], [1]])))
            seen.append(len(pool.snapshot()))
            seen.append(pool.open("c"))

        with pool._engine.exclusive():
            future = stream.submit(None, {"x": one(1)})
            future.add_done_callback(callback)
            more = [other.submit(None, {"x": one(1)}) for _ in range(3)]
        for item in more:
            item.result(10)
        until(lambda: len(seen) == 4)


# --- eviction -------------------------------------------------------------------------------


def test_idle_streams_are_evicted_with_their_state(ledger, zoo):
    kept = {}
    with StreamPool(ledger, capacity=4, idle_timeout=0.1, on_evict=kept.__setitem__) as pool:
        streams = [pool.open(str(i)) for i in range(4)]
        for i, stream in enumerate(streams):
            stream(one(i))
        start = time.monotonic()
        while time.monotonic() - start < 0.3:
            streams[0](one(0))
        until(lambda: len(kept) == 3)
        assert set(kept) == {"1", "2", "3"}
        assert pool.ids == ("0",)
        with pytest.raises(StreamClosedError, match="evicted"):
            streams[1](one(1))
        back = pool.open("1")
        back.restore(kept["1"])
        assert back.steps == 1
        assert back(one(5)) == zoo.ledger_step(1, 5)
        assert pool.stats().evicted == 3


def test_a_callback_that_raises_loses_nothing(ledger, caplog):
    calls = []

    def on_evict(key, snapshot):
        calls.append(key)
        if len(calls) < 3:
            raise RuntimeError("the disk is full")

    with StreamPool(ledger, capacity=4, idle_timeout=0.05, on_evict=on_evict) as pool:
        stream = pool.open("a")
        stream(one(1))
        until(lambda: len(calls) == 1)
        assert stream(one(2)) == 1000003 + 2, "it stays open"
        until(lambda: len(calls) == 3)
        until(lambda: stream.closed)
        assert pool.open("b")(one(1)) == 1, "the worker lives"
        assert "the disk is full" in caplog.text
        assert pool.stats().failed == 2


def test_requests_wait_while_their_stream_is_being_evicted(ledger):
    begun, go_on, fails = threading.Event(), threading.Event(), [True]

    def on_evict(_key, _snapshot):
        begun.set()
        go_on.wait(10)
        if fails[0]:
            raise RuntimeError("not now")

    with StreamPool(ledger, capacity=4, idle_timeout=0.05, on_evict=on_evict) as pool:
        for fails[0] in (True, False):
            stream = pool.open(f"a{fails[0]}")
            begun.wait(10)
            thread, result = background(stream, one(3))
            until(lambda: pool.stats().queued == 1)
            go_on.set()
            thread.join(10)
            begun.clear()
            go_on.clear()
            if fails[0]:
                assert result[0] == 3
                stream.close()
            else:
                assert isinstance(result[0], StreamClosedError)
        go_on.set()


def test_a_full_pool_evicts_who_is_idle(ledger):
    kept = {}
    with StreamPool(ledger, capacity=1, idle_timeout=0.02, on_evict=kept.__setitem__) as pool:
        for i in range(5):
            pool.open(str(i), wait=5)(one(i))
        assert set(kept) >= {"0", "1", "2", "3"}


# --- snapshots ------------------------------------------------------------------------------


def test_streams_and_sessions_exchange_snapshots(zoo, lstm_model):
    x = zoo.sequence(1, 5)
    with StreamPool(lstm_model, capacity=2) as pool:
        stream, session = pool.open("a"), StatefulSession(lstm_model)
        stream(x)
        session.restore(stream.snapshot())
        assert session.steps == 5
        y = session(x)
        other = pool.open("b")
        other.restore(session.snapshot())
        assert other.steps == 10
        assert np.array_equal(stream(x), y)
        assert np.array_equal(other(x), session(x))


def test_a_bad_snapshot_changes_nothing(zoo, lstm_model, ledger):
    with StreamPool(lstm_model, capacity=3) as pool:
        stream = pool.open("a")
        stream(zoo.sequence(1, 5))
        before, whole = stream.snapshot(), pool.snapshot()
        pair = StatefulSession(lstm_model)
        pair(zoo.sequence(2, 5))
        with StreamPool(ledger) as foreign:
            strange = foreign.open("a").snapshot()
        for bad in (pair.snapshot(), strange, before[:-1], b"", whole):
            with pytest.raises(StateFileError):
                stream.restore(bad)
        for bad in (before, whole[:-1], b"x"):
            with pytest.raises(StateFileError):
                pool.restore(bad)
        assert stream.snapshot() == before
        assert pool.ids == ("a",)


def test_a_pool_goes_on_from_a_snapshot_of_another(zoo, lstm_model):
    x = zoo.sequence(5, 3)
    with StreamPool(lstm_model, capacity=5) as pool, StreamPool(lstm_model, capacity=8) as other:
        streams = [pool.open(f"s{i}") for i in range(5)]
        pool.run_many(streams[:3], x[:3])
        snapshot = pool.snapshot()
        other.open("more")
        restored = other.restore(snapshot)
        assert [s.id for s in restored] == list(pool.ids)
        assert [s.steps for s in restored] == [3, 3, 3, 0, 0]
        assert np.array_equal(other.run_many(restored, x), pool.run_many(streams, x))
        with pytest.raises(PoolError, match="open already"):
            other.restore(snapshot)
        with StreamPool(lstm_model, capacity=4) as small:
            with pytest.raises(PoolFullError, match="no room for the streams"):
                small.restore(snapshot)
            assert small.ids == ()
            assert [small.open(str(i)).id for i in range(4)] == list("0123")
        assert len(other) == 6


def test_snapshots_of_a_busy_pool_are_of_one_moment(ledger, zoo):
    """Streams that are stepped together are at the same step in every snapshot."""
    with StreamPool(ledger, capacity=8) as pool, StreamPool(ledger, capacity=8) as other:
        streams = [pool.open(str(i)) for i in range(8)]
        stop = threading.Event()

        def drive():
            while not stop.is_set():
                pool.run_many(streams, np.ones((8, 1), "int64"))

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            for _ in range(20):
                restored = other.restore(pool.snapshot())
                assert len({s.steps for s in restored}) == 1
                y = other.run_many(restored, np.zeros((8, 1), "int64"))
                assert len(set(y[:, 0].tolist())) == 1
                for stream in restored:
                    stream.close()
        finally:
            stop.set()
            thread.join(10)


# --- the end --------------------------------------------------------------------------------


def test_close_drains(ledger):
    pool = StreamPool(ledger, capacity=4, max_delay=0.01)
    stream = pool.open("a")
    with pool._engine.exclusive():
        futures = [stream.submit(None, {"x": one(1)}) for _ in range(10)]
        thread, _ = background(pool.close)
        until(lambda: not pool._engine.open)
        with pytest.raises(PoolClosedError):
            stream(one(1))
    thread.join(10)
    assert all(future.done() for future in futures)
    assert len({int(future.result()[0][0, 0]) for future in futures}) == 10
    pool.close()
    for call in (lambda: stream(one(1)), lambda: pool.open("b"), pool.snapshot):
        with pytest.raises(PoolClosedError, match="the pool is closed"):
            call()
    assert pool.stats().streams == 0


def test_close_without_draining_fails_what_waits(ledger):
    pool = StreamPool(ledger, capacity=1, max_queue=3)
    stream = pool.open("a")
    with pool._engine.exclusive():
        futures = [stream.submit(None, {"x": one(1)}) for _ in range(2)]
        waiting = [background(stream.run, None, {"x": one(1)}) for _ in range(1)]
        until(lambda: pool.stats().queued == 3)
        waiting += [background(stream.run, None, {"x": one(1)}, wait=math.inf)]
        waiting += [background(pool.open, "b", wait=math.inf)]
        until(lambda: pool._engine.queue._line and pool._registry.places._line)
        closing, _ = background(pool.close, drain=False)
        until(lambda: all(future.done() for future in futures))
    closing.join(10)
    for future in futures:
        assert isinstance(future.exception(), PoolClosedError)
    for thread, result in waiting:
        thread.join(10)
        assert isinstance(result[0], PoolClosedError), result
    assert stream.closed


def test_leaving_a_block_by_an_error_does_not_drain(ledger):
    pool = StreamPool(ledger, capacity=1)
    with pool._engine.exclusive():
        future = pool.open("a").submit(None, {"x": one(1)})
        thread, _ = background(pool.__exit__, KeyError, KeyError(), None)
        until(future.done)
    thread.join(10)
    assert isinstance(future.exception(), PoolClosedError)


def test_a_forgotten_pool_ends_its_thread(ledger):
    pool = StreamPool(ledger, capacity=2, idle_timeout=100)
    future = pool.open("a").submit(None, {"x": one(1)})
    future.result(10)
    thread, alive = pool._worker._thread, weakref.ref(pool)
    del pool, future
    gc.collect()
    assert alive() is None
    thread.join(10)
    assert not thread.is_alive()


def test_the_interpreter_ends_with_a_pool_in_use(zoo, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.lstm())
    code = f"""
import numpy as np
from rnnonnx.runtime import StreamPool
pool = StreamPool({str(path)!r}, idle_timeout=5)
streams = [pool.open(str(i)) for i in range(50)]
futures = [s.submit(None, {{"x": np.ones((1, 500, 2), "float32")}}) for s in streams]
futures[-1].add_done_callback(lambda f: print("done", f.exception()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "done None\n"


def child(pool, stream, results):
    feed = {"x": one(1)}
    for call in (
        lambda: stream(one(1)),
        lambda: pool.open("b"),
        lambda: stream.submit(None, feed),
        stream.reset,
        pool.snapshot,
    ):
        try:
            call()
        except PoolError as error:
            results.put(str(error))
    pool.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_closing_in_a_forked_process_leaves_what_waits_in_this_one(ledger):
    with StreamPool(ledger, capacity=4, max_delay=5) as pool:
        streams = [pool.open("a"), pool.open("b"), pool.open("c")]
        thread, result = background(streams[0].run, None, {"x": one(1)})
        future = streams[1].submit(None, {"x": one(2)})
        called = []
        future.add_done_callback(lambda _: called.append(os.getpid()))
        until(lambda: pool.stats().queued == 2)
        child = os.fork()
        if child == 0:  # no traceback of a failed assertion may leave it
            status = 1
            try:
                pool.close()
                pool.close(drain=False)
                status = 0 if not future.done() and not called else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert streams[2].run(None, {"x": one(3)})[0] == 3
        thread.join(10)
        assert (result[0][0], future.result(10)[0]) == (1, 2)
        assert called == [os.getpid()]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told(ledger):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with StreamPool(ledger, capacity=2, idle_timeout=50) as pool:
        stream = pool.open("a")
        stream(one(1))
        process = context.Process(target=child, args=(pool, stream, results))
        with pool._engine.lock:  # whatever another thread was at
            process.start()
        messages = [results.get(timeout=20) for _ in range(5)]
        process.join(20)
        assert process.exitcode == 0
        assert all("forked" in message for message in messages)
        assert stream(one(1)) == 1000003 + 1
