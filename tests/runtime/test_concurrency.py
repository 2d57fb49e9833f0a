"""Sessions among threads and in an event loop: every call is whole, and cancelling one is safe."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rnnonnx import InputError, RunError
from rnnonnx.runtime import Model, StatefulSession


def counting(zoo):
    """A session whose state counts its calls, and whose output tells which call it was."""
    return StatefulSession(zoo.counter())


ZERO = np.zeros((1, 2), "int64")


def test_calls_of_many_threads_do_not_come_into_each_other(zoo):
    session = counting(zoo)
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: int(session(ZERO)[0, 0]), range(2000)))
    assert sorted(seen) == list(range(1, 2001))
    assert session.steps == 2000


def test_states_are_read_whole_while_others_step(zoo):
    model = Model.load(zoo.lstm())
    session, twin = StatefulSession(model), StatefulSession(model)
    inputs = [zoo.sequence(time=1 + seed % 3, seed=seed) for seed in range(300)]
    history = {}
    for x in inputs:
        twin(x)
        history[twin.steps] = {name: value.tobytes() for name, value in twin.get_states().items()}
    stop = threading.Event()
    read = []

    def watch():
        while not stop.is_set():
            with session._carrier._lock:
                read.append((session.steps, session.get_states()))
            read.append((None, session.get_states()))

    session(inputs[0])
    watcher = threading.Thread(target=watch)
    watcher.start()
    for x in inputs[1:]:
        session(x)
    stop.set()
    watcher.join(30)
    known = {tuple(values.values()) for values in history.values()}
    assert len(read) > 2
    for steps, states in read:
        values = tuple(value.tobytes() for value in states.values())
        assert values in known
        if steps is not None:
            assert values == tuple(history[steps].values())


def test_threads_with_sessions_of_their_own_over_one_model(zoo):
    model = Model.load(zoo.lstm())
    inputs = [zoo.sequence(time=1, seed=seed) for seed in range(50)]
    alone = StatefulSession(Model.load(zoo.lstm()))
    expected = [alone(x) for x in inputs]

    def work(_):
        session = StatefulSession(model)
        return [session(x) for x in inputs]

    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(work, range(12)):
            assert all(map(np.array_equal, got, expected))


def test_arun_gives_what_run_gives(zoo):
    session, twin = StatefulSession(zoo.lstm()), StatefulSession(zoo.lstm())

    async def main():
        for seed in range(6):
            x = zoo.sequence(time=1 + seed % 2, seed=seed)
            (y,) = await session.arun(None, {"x": x})
            np.testing.assert_array_equal(y, twin(x))
            (y,) = await session.arun(["y"], {"x": x})
            np.testing.assert_array_equal(y, twin(x))

    asyncio.run(main())
    assert zoo.equal_states(session.get_states(), twin.get_states())
    assert session.steps == twin.steps


def test_arun_leaves_the_loop_free(zoo):
    session = StatefulSession(zoo.wide())
    x = zoo.sequence(batch=4, time=400)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main():
        ticking = asyncio.create_task(tick())
        await session.arun(None, {"x": x})
        ticking.cancel()

    asyncio.run(main())
    assert ticks > 5


def test_arun_raises_what_run_raises(zoo):
    session = StatefulSession(zoo.lstm())

    async def main():
        with pytest.raises(InputError, match="no input 'z'"):
            await session.arun(None, {"z": zoo.sequence()})
        failing = StatefulSession(zoo.failing())
        with pytest.raises(RunError):
            await failing.arun(None, {"i": np.array([[99]])})
        assert failing.states is None

    asyncio.run(main())


def test_concurrent_calls_are_whole(zoo):
    session = counting(zoo)

    async def main():
        return await asyncio.gather(*(session.arun(None, {"x": ZERO}) for _ in range(200)))

    seen = [int(y[0, 0]) for (y,) in asyncio.run(main())]
    assert sorted(seen) == list(range(1, 201))


def test_a_call_cancelled_while_it_runs_changes_nothing(zoo):
    session = StatefulSession(zoo.wide())
    x = zoo.sequence(batch=4, time=400)

    async def main():
        await session.arun(None, {"x": x[:, :1]})
        before, steps = session.get_states(), session.steps
        for wait in (0.0, 0.001, 0.005, 0.02):
            task = asyncio.create_task(session.arun(None, {"x": x}))
            await asyncio.sleep(wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # waits until the thread has let go
            assert zoo.equal_states(await asyncio.to_thread(session.get_states), before)
            assert session.steps == steps

    asyncio.run(main())


def test_a_first_call_that_is_cancelled_leaves_the_batch_open(zoo):
    session = StatefulSession(zoo.wide())

    async def main():
        task = asyncio.create_task(session.arun(None, {"x": zoo.sequence(batch=4, time=400)}))
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert session.states is None
    session(zoo.sequence(batch=1))
    assert session.steps == zoo.sequence().shape[1]


def test_a_result_that_nobody_took_is_taken_back(zoo):
    """The run is over, its result on the way to the loop, and then the task is cancelled."""
    session = counting(zoo)

    async def main():
        task = asyncio.create_task(session.arun(None, {"x": ZERO}))
        await asyncio.sleep(0)
        while session.steps == 0:  # holds the loop, so that the result cannot be delivered
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert session.steps == 0
    assert int(session(ZERO)[0, 0]) == 1


def test_timeouts_at_random_moments_count_only_what_was_delivered(zoo):
    session = counting(zoo)
    rng = np.random.default_rng(0)

    async def main():
        delivered = 0
        for wait in rng.uniform(0, 4e-4, size=300):
            try:
                (y,) = await asyncio.wait_for(session.arun(None, {"x": ZERO}), wait)
            except TimeoutError:
                continue
            delivered += 1
            assert int(y[0, 0]) == delivered
        return delivered

    assert asyncio.run(main()) == session.steps


def test_what_another_call_has_begun_from_is_not_taken_back(zoo):
    """A call ends, another one fails, and then the first is cancelled."""
    session = StatefulSession(zoo.failing())

    async def main():
        task = asyncio.create_task(session.arun(None, {"i": np.array([[2]])}))
        await asyncio.sleep(0)
        while session.steps == 0:  # holds the loop, so that the result cannot be delivered
            pass
        with pytest.raises(RunError):
            session(np.array([[99]]))  # has written into the buffers of the state before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert session.steps == 1
    assert session.get_states()["s"] == 2


def test_readers_do_not_keep_a_cancelled_call_in_effect(zoo):
    session = counting(zoo)
    stop = threading.Event()

    def read():
        while not stop.is_set():
            session.get_states()

    async def main():
        for _ in range(50):
            task = asyncio.create_task(session.arun(None, {"x": ZERO}))
            await asyncio.sleep(0)
            while session.steps == 0:
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert session.steps == 0

    reader = threading.Thread(target=read)
    reader.start()
    try:
        asyncio.run(main())
    finally:
        stop.set()
        reader.join(30)


def test_a_coroutine_that_is_closed_changes_nothing(zoo):
    session = counting(zoo)

    async def main():
        coroutine = session.arun(None, {"x": ZERO})
        coroutine.send(None)
        while session.steps == 0:
            pass
        coroutine.close()

    asyncio.run(main())
    assert session.steps == 0
