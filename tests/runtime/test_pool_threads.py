"""Many threads at one pool: nothing is lost, mixed, done twice or out of order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rnnonnx.errors import PoolError, QueueFullError, StreamClosedError
from rnnonnx.runtime import Model, StatefulSession, StreamPool


def dice(seed):
    return random.Random(seed)  # noqa: S311


class Team:
    """Threads that run until a time is up, and what went wrong in them."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.errors = []
        self.threads = []

    def add(self, work, *args):
        def run():
            try:
                while time.monotonic() < self.end and not self.errors:
                    work(*args)
            except BaseException as error:  # noqa: BLE001  # shown by the test
                self.errors.append(error)

        self.threads.append(threading.Thread(target=run))

    def run(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread waits without end"
        assert not self.errors, self.errors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch": 3, "max_delay": 0.0005},
        {"max_queue": 4, "min_batch": 2},
    ],
    ids=["plain", "delay", "narrow"],
)
def test_every_input_counts_once_and_in_order(zoo, ledger, options):
    """Streams whose state tells every input and their order, driven in every way at once."""
    team = Team(1.0)
    step = zoo.ledger_step
    with StreamPool(ledger, capacity=24, **options) as pool:

        def blocking(stream, state, rng):
            x = rng.randrange(1000)
            state[0] = step(state[0], x)
            assert stream.run(None, {"x": np.array([[x]])}, wait=30)[0] == state[0]

        def futures(stream, state, rng):
            xs = [rng.randrange(1000) for _ in range(rng.randrange(1, 6))]
            made = [stream.submit(None, {"x": np.array([[x]])}, wait=30) for x in xs]
            for x, future in zip(xs, made, strict=True):
                if rng.random() < 0.3 and future.cancel():
                    continue
                state[0] = step(state[0], x)
                assert future.result(30)[0] == state[0]

        def together(streams, states, rng):
            xs = np.array([[rng.randrange(1000)] for _ in streams])
            chosen = rng.sample(range(len(streams)), rng.randrange(1, len(streams) + 1))
            for i in chosen:
                states[i] = step(states[i], int(xs[i, 0]))
            y = pool.run_many([streams[i] for i in chosen], xs[chosen], wait=30)
            assert y[:, 0].tolist() == [states[i] for i in chosen]

        def coming_and_going(name, rng):
            stream, state = pool.open(name), 0
            for _ in range(rng.randrange(5)):
                x = rng.randrange(1000)
                state = step(state, x)
                assert stream.run(None, {"x": np.array([[x]])}, wait=30)[0] == state
            if rng.random() < 0.5:
                snapshot = stream.snapshot()
                stream.reset()
                assert stream.run(None, {"x": np.array([[3]])}, wait=30)[0] == 3
                stream.restore(snapshot)
                assert stream.run(None, {"x": np.array([[4]])}, wait=30)[0] == step(state, 4)
            stream.close()

        for i in range(5):
            team.add(blocking, pool.open(f"b{i}"), [0], dice(i))
            team.add(futures, pool.open(f"f{i}"), [0], dice(i))
        streams = [pool.open(f"m{i}") for i in range(5)]
        team.add(together, streams, [0] * 5, dice(0))
        for i in range(3):
            team.add(coming_and_going, f"c{i}", dice(i))
        team.add(lambda: (pool.snapshot(), pool.stats(), time.sleep(0.01)))
        team.run()
        stats = pool.stats()
        assert stats.queued == stats.failed == stats.refused == 0
        assert pool._engine.queue.used == 0
        assert stats.wait_seconds.count == stats.rows == stats.steps
        assert stats.batch_size.sum == stats.rows


def test_an_lstm_under_threads_is_its_session(zoo, lstm_model):
    team = Team(0.7)
    with StreamPool(lstm_model, capacity=8) as pool, StreamPool(lstm_model, capacity=8) as second:

        def work(stream, session, rng):
            x = zoo.sequence(1, rng.randrange(1, 4), seed=rng.randrange(100))
            np.testing.assert_array_equal(stream(x), session(x))

        for i in range(4):
            team.add(work, pool.open(str(i)), StatefulSession(lstm_model), dice(i))
            team.add(work, second.open(str(i)), StatefulSession(lstm_model), dice(i))
        team.run()


def test_threads_that_share_a_stream_and_one_that_closes_it(ledger):
    team = Team(0.5)
    with StreamPool(ledger, capacity=2, max_queue=3) as pool:

        def work():
            try:
                pool.stream("a")(np.array([[1]]))
            except (StreamClosedError, QueueFullError):
                time.sleep(0.0005)

        def close():
            try:
                pool.open("a")
            except PoolError:
                pool.stream("a").close()
            time.sleep(0.001)

        for _ in range(5):
            team.add(work)
        team.add(close)
        team.run()
        assert pool._engine.queue.used == 0


def test_closing_amid_everything_ends_everything(ledger):
    for drain in (True, False):
        pool = StreamPool(ledger, capacity=8, max_queue=4)
        streams = [pool.open(str(i)) for i in range(8)]
        ended = []

        def work(stream, ended=ended):
            done = 0
            try:
                while True:
                    stream.run(None, {"x": np.array([[1]])}, wait=30)
                    done += 1
            except PoolError as error:
                ended.append((done, error))

        threads = [threading.Thread(target=work, args=(s,)) for s in streams]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        pool.close(drain=drain)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert sum(done for done, _ in ended) == pool.stats().rows
        assert len(ended) == 8
        ended.clear()


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from rnnonnx.runtime import StreamPool, StatefulSession, Model

model = Model.load({path!r})
x = np.ones((1, 20000, 2), "float32")
with StreamPool(model, capacity=3) as pool:
    mine, other, third = (pool.open(name) for name in "abc")
    results = []

    def work():
        results.append(other(x))

    with pool._engine.exclusive():
        thread = threading.Thread(target=work)
        thread.start()
        future = third.submit(None, {{"x": x}})
        while pool.stats().queued < 2:
            time.sleep(0.001)

    def interrupt():
        while pool.stats().queued or not pool._engine._leader:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    try:
        killer.start()
        while True:
            mine(x)
    except KeyboardInterrupt:
        print("interrupted")
    killer.join(20)
    thread.join(20)
    y = StatefulSession(model)(x)
    print(np.array_equal(results[0], y), np.array_equal(future.result(20)[0], y))
    mine.reset()
    print(np.array_equal(mine(x), y))
"""


def test_an_interrupt_ends_one_caller_and_no_other(zoo, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.lstm())
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(path=str(path))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["interrupted", "True True", "True"], done.stderr
    assert done.returncode == 0


def test_a_leader_that_is_interrupted_puts_back_what_others_wait_for(zoo):
    """The interrupt comes while the main thread runs a batch with another thread's request."""
    model = Model.load(zoo.lstm())
    x = zoo.sequence(1, 30000)
    expected = StatefulSession(model)(x)
    with StreamPool(model, capacity=2, max_delay=20) as pool:
        mine, other = pool.open("a"), pool.open("b")
        for _ in range(3):
            results = []

            def join(results=results):
                while (
                    not pool._engine.company.awaited
                ):  # the main thread leads, and waits for company
                    time.sleep(0.001)
                threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGINT)).start()
                results.append(other(x))

            thread = threading.Thread(target=join)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                [mine(x), time.sleep(5)]
            mine.close()  # the other no longer waits for it
            thread.join(20)
            assert not thread.is_alive()
            assert np.array_equal(results[0], expected)
            other.reset()
            mine = pool.open("a")
