"""A pool under asyncio: the loop goes on, cancellation loses nothing, loops and threads mix."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time

import numpy as np
import pytest

from rnnonnx.errors import (
    InputError,
    PoolClosedError,
    PoolFullError,
    QueueFullError,
    RunError,
    StreamClosedError,
)
from rnnonnx.runtime import StatefulSession, StreamPool


def one(value):
    return {"x": np.array([[value]])}


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_tasks_share_batches(zoo, lstm_model):
    async def main():
        with StreamPool(lstm_model, capacity=32, max_delay=1.0) as pool:
            streams = [pool.open(str(i)) for i in range(32)]
            sessions = [StatefulSession(lstm_model) for _ in streams]
            for step in range(5):
                x = zoo.sequence(32, 3, seed=step)
                calls = [s.arun(None, {"x": x[i : i + 1]}) for i, s in enumerate(streams)]
                for i, (y,) in enumerate(await asyncio.gather(*calls)):
                    np.testing.assert_array_equal(y, sessions[i](x[i : i + 1]))
            return pool.stats()

    stats = run(main())
    assert (stats.batches, stats.rows) == (5, 160)


def test_the_loop_goes_on(zoo):
    async def main():
        ticks = 0
        with StreamPool(zoo.lstm(), capacity=1) as pool:
            stream = pool.open("a")
            task = asyncio.create_task(stream.arun(None, {"x": zoo.sequence(1, 200_000)}))
            while not task.done():
                await asyncio.sleep(0.001)
                ticks += 1
            assert (await task)[0].shape == (1, 200_000, 3)
        return ticks

    assert run(main()) > 5


def test_errors_come_to_who_awaits(zoo, ledger):
    async def main():
        with StreamPool(zoo.failing(), capacity=4) as pool:
            streams = [pool.open(str(i)) for i in range(4)]
            calls = [s.arun(None, {"i": np.array([[i * 2]])}) for i, s in enumerate(streams)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(r) for r in results] == [list, list, RunError, RunError]
            with pytest.raises(InputError):
                await streams[0].arun(None, {})
            with pytest.raises(InputError):
                await streams[0].arun(["z"], {"i": np.array([[0]])})
        with pytest.raises(PoolClosedError):
            await streams[0].arun(None, {"i": np.array([[0]])})

    run(main())


def test_a_cancelled_request_that_waits_never_runs(ledger):
    async def main():
        with StreamPool(ledger, capacity=2) as pool:
            stream = pool.open("a")
            with pool._engine.exclusive():
                tasks = [asyncio.create_task(stream.arun(None, one(i))) for i in (1, 2, 3)]
                await asyncio.sleep(0)
                assert pool.stats().queued == 3
                tasks[1].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[1]
                assert pool.stats().queued == 2
            assert (await tasks[2])[0] == 1000003 + 3
            assert stream.steps == 2

    run(main())


def test_a_cancelled_request_that_runs_commits(zoo, lstm_model):
    async def main():
        with StreamPool(lstm_model, capacity=1) as pool:
            stream = pool.open("a")
            x = zoo.sequence(1, 100_000)
            task = asyncio.create_task(stream.arun(None, {"x": x}))
            while pool._engine._leader is None or pool.stats().queued:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            session = StatefulSession(lstm_model)
            session(x)
            short = zoo.sequence(1, 2)
            (y,) = await stream.arun(None, {"x": short})
            assert np.array_equal(y, session(short))
            assert stream.steps == 100_002

    run(main())


def test_full_queue_and_full_pool_wait_without_blocking(ledger):
    async def main():
        with StreamPool(ledger, capacity=1, max_queue=1) as pool:
            stream = await pool.aopen("a")
            with pool._engine.exclusive():
                first = asyncio.create_task(stream.arun(None, one(1)))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError):
                    await stream.arun(None, one(2))
                with pytest.raises(QueueFullError):
                    await stream.arun(None, one(2), wait=0.01)
                with pytest.raises(PoolFullError):
                    await pool.aopen("b")
                with pytest.raises(PoolFullError):
                    await pool.aopen("b", wait=0.01)
                waiting = [
                    asyncio.create_task(stream.arun(None, one(i), wait=math.inf)) for i in (2, 3, 4)
                ]
                await asyncio.sleep(0)
                waiting[1].cancel()
                await asyncio.sleep(0)
            await asyncio.gather(first, waiting[0], waiting[2])
            assert stream.steps == 3
            opening = asyncio.create_task(pool.aopen("b", wait=10))
            await asyncio.sleep(0)
            stream.close()
            assert (await opening).id == "b"
            assert pool._engine.queue.used == 0
            with pytest.raises(StreamClosedError):
                await stream.arun(None, one(1))

    run(main())


def test_random_cancellation_loses_and_mixes_nothing(ledger, zoo):
    """Every state is what the requests that were not taken back make of it."""
    step = zoo.ledger_step
    rng = random.Random(5)  # noqa: S311

    async def client(pool, name, end):
        stream = await pool.aopen(name, wait=30)
        possible = {0}
        while time.monotonic() < end:
            x = rng.randrange(1000)
            task = asyncio.create_task(stream.arun(None, one(x), wait=30))
            if rng.random() < 0.4:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                (y,) = await task
                assert y[0, 0] in {step(h, x) for h in possible}
                possible = {int(y[0, 0])}
            except asyncio.CancelledError:
                # it was taken back, or it was in a batch already
                possible |= {step(h, x) for h in possible}
        steps = stream.steps
        stream.close()
        return steps

    async def main():
        end = time.monotonic() + 1.0
        with StreamPool(ledger, capacity=12, max_queue=6, max_batch=5, max_delay=2e-4) as pool:
            steps = await asyncio.gather(*[client(pool, str(i), end) for i in range(20)])
            await asyncio.to_thread(pool.close)
            assert sum(steps) == pool.stats().rows > 100
            assert pool._engine.queue.used == 0

    run(main())


def test_loops_and_threads_mix(ledger, zoo):
    step = zoo.ledger_step
    end = time.monotonic() + 0.7
    errors = []

    async def task(stream):
        state = 0
        while time.monotonic() < end:
            state = step(state, 7)
            (y,) = await stream.arun(None, one(7))
            assert y[0, 0] == state
            if state % 3:
                state = step(state, 9)
                (y,) = await asyncio.wrap_future(stream.submit(None, one(9)))
                assert y[0, 0] == state

    async def tasks(streams):
        await asyncio.gather(*map(task, streams))

    def loop(streams):
        try:
            run(tasks(streams))
        except AssertionError as error:
            errors.append(error)

    def thread(stream):
        state = 0
        while time.monotonic() < end:
            state = step(state, 5)
            if stream.run(None, one(5))[0] != state:
                errors.append(state)

    with StreamPool(ledger, capacity=20) as pool:
        team = [
            threading.Thread(target=loop, args=([pool.open(f"{i}.{j}") for j in range(5)],))
            for i in range(2)
        ]
        team += [threading.Thread(target=thread, args=(pool.open(str(i)),)) for i in range(3)]
        for item in team:
            item.start()
        for item in team:
            item.join(30)
            assert not item.is_alive()
    assert not errors


def test_a_loop_that_is_gone_harms_nobody(ledger):
    with StreamPool(ledger, capacity=2) as pool:
        stream, other = pool.open("a"), pool.open("b")
        loop = asyncio.new_event_loop()
        with pool._engine.exclusive():
            task = loop.create_task(stream.arun(None, one(1)))
            loop.run_until_complete(asyncio.sleep(0))
            future = other.submit(None, one(1))
            loop.close()
        assert future.result(10)[0] == 1
        assert stream.run(None, one(2))[0] == 1000003 + 2
        task._log_destroy_pending = False
        task._coro.close()
