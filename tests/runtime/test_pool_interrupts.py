"""Interrupts of the main thread amid a pool's calls: nothing is lost, doubled, torn or blocked."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest
from onnx import helper

from rnnonnx.errors import PoolError
from rnnonnx.manifest import StateTensor, Tensor
from rnnonnx.runtime import StreamPool

ONE = np.ones((1, 1), "int64")

pytestmark = pytest.mark.skipif(
    "RNNONNX_INTERRUPTS" not in os.environ,
    reason="run in a process of its own by test_interrupts.py: interrupts strike the runner, too",
)


class Alarm:
    """Raises KeyboardInterrupt in the main thread once, at a random moment of a call."""

    def __init__(self, seed):
        self.rng = random.Random(seed)  # noqa: S311
        self.armed = False
        self.hits = 0

    def fire(self, *_frame):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def during(self, call, longest):
        """Whether the call ended of itself."""
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(5e-6, longest))
            call()
            self.armed = False
        except KeyboardInterrupt:
            self.hits += 1
            return False
        return True


@pytest.fixture
def alarm():
    alarm = Alarm(7)
    before = signal.signal(signal.SIGALRM, alarm.fire)
    yield alarm
    alarm.armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_time(call, seconds=10):
    """What a call in another thread returns; it must end."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the pool is blocked"
    return results[0]


def test_what_others_have_queued_runs_once(ledger, alarm):
    """The main thread's call leads a batch with their requests, and is interrupted anywhere."""
    end = time.monotonic() + 1.5
    with StreamPool(ledger, capacity=64) as pool:
        streams = [pool.open(str(i)) for i in range(64)]
        while time.monotonic() < end:
            for stream in streams:
                stream.reset()
            futures = [stream.submit(None, {"x": ONE}) for stream in streams[1:]]
            alarm.during(lambda: streams[0](ONE), 1.5e-3)
            assert not wait(futures, 10).not_done
            assert all(future.result()[0] == 1 for future in futures)
            assert {stream.steps for stream in streams[1:]} == {1}
            assert streams[0].steps in {0, 1}
    assert alarm.hits > 0


def many_states(zoo):
    """Six states, each the sum of its inputs, so large that writing them takes a while."""
    states = [
        StateTensor(n, f"{n}_in", f"{n}_out", "float32", ("batch", 100_000)) for n in "abcdef"
    ]
    nodes = [helper.make_node("Add", [f"{n}_in", "x"], [f"{n}_out"]) for n in "abcdef"]
    manifest = zoo.make_manifest(
        [Tensor("x", "float32", ("batch", 1), 0)], [Tensor("y", "float32", ("batch", 1), 0)], states
    )
    return zoo.make_model(manifest, [*nodes, helper.make_node("Neg", ["x"], ["y"])])


@pytest.mark.parametrize("what", ["reset", "restore"])
def test_no_state_is_torn(zoo, alarm, what):
    one = np.ones((1, 1), "float32")
    end = time.monotonic() + 1.0
    with StreamPool(many_states(zoo), capacity=1) as pool:
        stream = pool.open("a")
        zero = stream.snapshot()
        while time.monotonic() < end:
            stream(one)
            call = stream.reset if what == "reset" else lambda: stream.restore(zero)
            alarm.during(call, 8e-4 if what == "reset" else 5e-3)
            pool.stats()  # after the call, whatever became of it
            values = {float(a[0, 0]) for a in pool._registry._slab.read([0]).values()}
            assert values == {float(stream.steps)}


def test_any_call_at_any_moment(zoo, ledger, alarm):
    """Beside other threads: each stream's state is that of its requests, in their order."""
    step = zoo.ledger_step
    stop, errors, done = threading.Event(), [], []
    with StreamPool(ledger, capacity=8, max_queue=8) as pool:
        mine, more = pool.open("a"), pool.open("b")

        def other(name):
            stream, state = pool.open(name), 0
            try:
                while not stop.is_set():
                    state = step(state, 1)
                    assert stream.run(None, {"x": ONE}, wait=10)[0] == state
                    state = step(state, 1)
                    assert stream.submit(None, {"x": ONE}, wait=10).result(10)[0] == state
            except BaseException as error:  # noqa: BLE001  # shown below
                errors.append(error)
            done.append(stream.steps)

        team = [threading.Thread(target=other, args=(f"t{i}",)) for i in range(2)]
        for thread in team:
            thread.start()
        calls = [
            lambda: mine.run(None, {"x": ONE}, wait=10),
            lambda: pool.run_many([mine, more], np.ones((2, 1), "int64"), wait=10),
            lambda: mine.submit(None, {"x": ONE}, wait=10).cancel(),
            mine.snapshot,
            mine.reset,
            pool.snapshot,
            pool.stats,
            lambda: pool.open("c").close(),
        ]
        end = time.monotonic() + 2.0
        while time.monotonic() < end and not errors:
            alarm.during(alarm.rng.choice(calls), 4e-4)
            pool.stats()  # what was interrupted is over after this, with or without effect
            if "c" in pool.ids:
                pool.stream("c").close()
        stop.set()
        for thread in team:
            thread.join(20)
            assert not thread.is_alive(), "the pool is blocked"
        assert not errors
        steps, expected = mine.steps, 0
        for _ in range(steps):
            expected = step(expected, 1)
        assert in_time(lambda: mine(ONE)) == step(expected, 1)
        stats = pool.stats()
        assert stats.queued == pool._engine.queue.used == stats.failed == 0
        assert pool._registry.places.used == len(pool) == 4
    assert len(done) == 2
    assert alarm.hits > 5


def test_a_call_that_waits_for_a_place_is_withdrawn(ledger, alarm):
    with StreamPool(ledger, capacity=1, max_queue=1) as pool:
        stream = pool.open("a")
        assert not alarm.during(lambda: pool.open("b", wait=60), 0.05)
        hold = pool._engine.exclusive()
        with hold:
            future = stream.submit(None, {"x": ONE})
            assert not alarm.during(lambda: stream.run(None, {"x": ONE}, wait=60), 0.05)
            assert not alarm.during(pool.snapshot, 0.05)
            assert pool.stats().queued == 1
        assert future.result(10)[0] == 1
        stream.close()
        assert pool.open("c").steps == 0, "nobody stands in the line any longer"


@pytest.mark.parametrize("drain", [True, False])
def test_closing_ends_whenever_it_is_interrupted(ledger, alarm, drain):
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pool = StreamPool(ledger, capacity=4)
        streams = [pool.open(str(i)) for i in range(4)]
        futures = [stream.submit(None, {"x": ONE}) for stream in streams]
        alarm.during(lambda: streams[0](ONE), 4e-4)  # noqa: B023
        alarm.during(lambda: pool.close(drain=drain), 4e-4)  # noqa: B023
        in_time(lambda: pool.close(drain=False))  # noqa: B023
        assert not wait(futures, 10).not_done
        with pytest.raises(PoolError):
            streams[0](ONE)


def test_a_handler_may_use_the_pool(ledger, alarm):
    """Whatever the main thread is at, it holds no lock that its handler waits for."""
    with StreamPool(ledger, capacity=2) as pool:
        stream = pool.open("a")
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(len(stream.snapshot())))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            signal.setitimer(signal.ITIMER_REAL, alarm.rng.uniform(5e-6, 2e-4))
            stream(ONE)
            assert pool.ids == ("a",)
            pool.stats()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(seen) > 20


@pytest.mark.skipif(
    os.environ.get("RNNONNX_INTERRUPTS") != "asyncio",
    reason="asyncio's own gather and run_until_complete are not safe from interrupts",
)
@pytest.mark.filterwarnings("ignore")  # coroutines that an interrupt kept from being awaited
def test_a_loop_in_the_main_thread(ledger, zoo, alarm):
    step = zoo.ledger_step
    with StreamPool(ledger, capacity=9, max_queue=5) as pool:
        streams = [pool.open(str(i)) for i in range(8)]

        async def turn():
            calls = [s.arun(None, {"x": ONE}, wait=i % 2 * 10.0) for i, s in enumerate(streams)]
            await asyncio.gather(*calls, return_exceptions=True)
            (await pool.aopen("i", wait=0.0)).close()

        async def ended(tasks):
            for one in tasks:
                one.cancel()
            await asyncio.wait(tasks, timeout=2)

        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            loop = asyncio.new_event_loop()
            task = loop.create_task(turn())
            alarm.during(lambda: loop.run_until_complete(task), 4e-3)  # noqa: B023
            if pending := asyncio.all_tasks(loop):
                loop.run_until_complete(ended(pending))
            loop.close()
            pool.stats()
            if "i" in pool.ids:
                pool.stream("i").close()
        for stream in streams:
            steps, expected = stream.steps, 0
            for _ in range(steps + 1):
                expected = step(expected, 1)
            last = in_time(lambda: stream.run(None, {"x": ONE}, wait=10))  # noqa: B023
            if stream.steps == steps + 1:
                assert last[0] == expected
        assert pool.stats().queued == pool._engine.queue.used == 0
    assert alarm.hits > 0
