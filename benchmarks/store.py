"""What a store costs a step: streams of a pool, bare and with each step in SQLite or Redis.

Usage:
    python benchmarks/store.py
    python benchmarks/store.py --units 64 --rounds 9 --seconds 0.3
    python benchmarks/store.py --write      # the table goes to docs/benchmarks.md

Every way steps its streams again and again, one time step a request, one after the other from one
thread. The ways take turns, round after round, so that a machine that is busy is busy for all; a
ratio is that of one round, and its median over the rounds is shown with the first and the last
tenth. `hot`: the pool has the streams. `cold`: each step reads the store first, as after a process
was killed, or with more streams than places.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from _graphs import lstm
from _measure import machine, markdown, side_by_side, write_section
from _redis_server import PROGRAM, redis_server

from rnnonnx.runtime import Model, StreamPool
from rnnonnx.scale.store import RedisStore, SqliteStore, StateStore, StoredStreams

FEATURES, STREAMS = 64, 16
COMMAND = "python benchmarks/store.py --write"
BARE = "`Stream.run`, no store"


def bare(model: Model, stack: ExitStack) -> Callable[[], object]:
    """Streams of a pool, whose states are nowhere else."""
    pool = stack.enter_context(StreamPool(model, capacity=STREAMS))
    streams = itertools.cycle([pool.open(str(i)) for i in range(STREAMS)])
    feed = {"x": frame()}
    return lambda: next(streams).run(None, feed)


def snapshots(model: Model, stack: ExitStack) -> Callable[[], object]:
    """The same, each step with a snapshot that is thrown away."""
    pool = stack.enter_context(StreamPool(model, capacity=STREAMS))
    streams = itertools.cycle([pool.open(str(i)) for i in range(STREAMS)])
    feed = {"x": frame()}

    def step() -> bytes:
        stream = next(streams)
        stream.run(None, feed)
        return stream.snapshot()

    return step


def stored(
    model: Model, store: StateStore, stack: ExitStack, *, places: int = STREAMS
) -> Callable[[], object]:
    """Streams whose every step is in the store before it is answered."""
    stack.callback(store.close)
    pool = stack.enter_context(StreamPool(model, capacity=places))
    streams = stack.enter_context(StoredStreams(pool, store))
    feed = {"x": frame()}

    def steps() -> Iterator[object]:
        for step in itertools.count():
            for stream in range(STREAMS):
                yield streams.run(str(stream), step, feed)

    answers = steps()
    return lambda: next(answers)


def frame() -> np.ndarray:
    """Random input, float32 [1, 1, FEATURES]."""
    return np.random.default_rng(1).normal(size=(1, 1, FEATURES)).astype("float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--units", type=int, default=256, help="of the LSTM (256)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a way in a round (0.2)")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        model = Model.load(lstm(arguments.units, FEATURES))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = {
            BARE: bare(model, stack),
            "`Stream.run` and a snapshot": snapshots(model, stack),
            "SQLite": stored(model, SqliteStore(folder / "a.db"), stack),
            "SQLite, cold": stored(model, SqliteStore(folder / "b.db"), stack, places=1),
            "SQLite, `power_safe`": stored(
                model, SqliteStore(folder / "c.db", power_safe=True), stack
            ),
        }
        if PROGRAM is not None:
            plain = stack.enter_context(redis_server())
            safe = stack.enter_context(redis_server(durable=True))
            ways |= {
                "Redis": stored(model, RedisStore(plain, prefix="a:"), stack),
                "Redis, cold": stored(model, RedisStore(plain, prefix="b:"), stack, places=1),
                "Redis, `appendfsync always`": stored(model, RedisStore(safe), stack),
            }
        # NOTE: in a thread, since a pool hands the main thread's calls to another one.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        timings = thread.submit(
            side_by_side, ways, BARE, rounds=arguments.rounds, seconds=arguments.seconds
        ).result()
        state = len(bare_snapshot(model))
    rows = [
        [name, f"{t.seconds * 1e6:,.0f}", f"{t.ratio:.1f} ({t.low:.1f} to {t.high:.1f})"]
        for name, t in timings.items()
    ]
    about = (
        f"`{COMMAND}`: an LSTM of {arguments.units} units, {FEATURES} features, one time step a\n"
        f"request, {STREAMS} streams one after the other from one thread; {state:,} bytes a "
        f"stream,\n{arguments.rounds} rounds by turns. SQLite on this machine's disk, Redis on "
        f"loopback."
    )
    table = markdown(["Way", "µs a step", "Times the bare pool: median (tenth to tenth)"], rows)
    text = "\n\n".join([about, machine(["onnxruntime", "numpy", "redis"]), table])
    print(text)
    if arguments.write:
        write_section("store", text)


def bare_snapshot(model: Model) -> bytes:
    """A stream's snapshot, to tell its size."""
    with StreamPool(model, capacity=1) as pool:
        return pool.open("a").snapshot()


if __name__ == "__main__":
    main()
