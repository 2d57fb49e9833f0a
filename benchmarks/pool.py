"""Rows a second and waits through a StreamPool, beside the bare InferenceSession.

Usage:
    python benchmarks/pool.py                         # 1, 16, 256 and 4096 streams, LSTM 256
    python benchmarks/pool.py --streams 16 --units 64 --rounds 9 --seconds 0.3

Every way steps all its streams again and again, one time step a call. The ways take turns, round
after round, so that a machine that is busy is busy for all; a ratio is that of one
round, and its median over the rounds is shown with the smallest and the largest. The bare session
runs the batch that the pool would (at most `--max-batch` rows) with its states passed by hand.
Waits are from a call to the start of its batch, in a run of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from _graphs import lstm
from _measure import machine, markdown, write_section
from rich.console import Console
from rich.table import Table

from rnnonnx.runtime import Model, StatefulSession, StreamPool

FEATURES = 64
THREADS = 32
REPEATS = 8
"""Steps for each change to the other thread."""
COMMAND = "python benchmarks/pool.py --write"
BARE = "bare InferenceSession"

Step = Callable[[], int]
"""Steps some rows once; how many."""


@dataclass
class Waits:
    """A meter that keeps the waits."""

    values: list[float]

    def add(self, name: str, amount: int) -> None:
        """Counters are not wanted."""

    def record(self, name: str, values: Sequence[float]) -> None:
        """Keep the waits alone."""
        if name == "wait_seconds":
            self.values += values


def bare(data: bytes, batch: int, units: int) -> Step:
    """`InferenceSession.run` with the states passed by hand."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = ["y", "state_out.lstm.h", "state_out.lstm.c"]
    feed = {
        "x": frames(batch),
        "state_in.lstm.h": np.zeros((batch, units), "float32"),
        "state_in.lstm.c": np.zeros((batch, units), "float32"),
    }

    def step() -> int:
        _, feed["state_in.lstm.h"], feed["state_in.lstm.c"] = session.run(names, feed)
        return batch

    return step


def sessions(model: Model, count: int) -> Step:
    """One StatefulSession a stream, one after the other."""
    each = [StatefulSession(model) for _ in range(count)]
    rows = [frames(1)] * count

    def step() -> int:
        for session, x in zip(each, rows, strict=True):
            session(x)
        return count

    return step


def run_many(pool: StreamPool, count: int) -> Step:
    """One array for all streams."""
    streams = [pool.open(str(i)) for i in range(count)]
    x = frames(count)

    def step() -> int:
        pool.run_many(streams, x)
        return count

    return step


def beside(step: Step, stack: ExitStack) -> Step:
    """The same in another thread than the main one, which calls a pool directly."""
    executor = stack.enter_context(ThreadPoolExecutor(1))

    def many() -> int:
        return sum(step() for _ in range(REPEATS))

    return lambda: executor.submit(many).result()


def run_one(pool: StreamPool, count: int) -> Step:
    """Blocking calls, one stream after the other."""
    streams = [pool.open(str(i)) for i in range(count)]
    feed = {"x": frames(1)}

    def step() -> int:
        for stream in streams:
            stream.run(None, feed)
        return count

    return step


def submit(pool: StreamPool, count: int) -> Step:
    """A Future for each stream, from one thread."""
    streams = [pool.open(str(i)) for i in range(count)]
    feed = {"x": frames(1)}

    def step() -> int:
        futures = [stream.submit(None, feed) for stream in streams]
        for future in futures:
            future.result()
        return count

    return step


def threads(pool: StreamPool, count: int, stack: ExitStack) -> Step:
    """Blocking calls, from at most 32 threads that share the streams."""
    streams = [pool.open(str(i)) for i in range(count)]
    number = min(count, THREADS)
    begin, end = threading.Barrier(number + 1), threading.Barrier(number + 1)
    going = [True]
    feed = {"x": frames(1)}

    def work(mine: list[Any]) -> None:
        while True:
            begin.wait()
            if not going[0]:
                return
            for stream in mine:
                stream.run(None, feed)
            end.wait()

    team = [threading.Thread(target=work, args=(streams[i::number],)) for i in range(number)]
    for thread in team:
        thread.start()

    def finish() -> None:
        going[0] = False
        begin.wait()
        for thread in team:
            thread.join()

    stack.callback(finish)

    def step() -> int:
        begin.wait()
        end.wait()
        return count

    return step


def tasks(pool: StreamPool, count: int, stack: ExitStack) -> Step:
    """An asyncio task for each stream."""
    streams = [pool.open(str(i)) for i in range(count)]
    runner = stack.enter_context(asyncio.Runner())
    feed = {"x": frames(1)}

    async def all_once() -> None:
        await asyncio.gather(*[stream.arun(None, feed) for stream in streams])

    def step() -> int:
        runner.run(all_once())
        return count

    return step


def frames(rows: int) -> np.ndarray[Any, Any]:
    """Random input of one time step, float32 [rows, 1, FEATURES]."""
    return np.random.default_rng(1).normal(size=(rows, 1, FEATURES)).astype("float32")


def rate(step: Step, seconds: float) -> float:
    """Rows a second."""
    rows, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        rows += step()
    return rows / spent


def build(
    model: Model, data: bytes, units: int, count: int, most: int, stack: ExitStack
) -> tuple[dict[str, Step], dict[str, Waits]]:
    """Every way by its name, the bare session first; and each pool's waits."""
    ways: dict[str, Step] = {BARE: bare(data, min(count, most), units)}
    ways["a StatefulSession a stream"] = sessions(model, count)
    waits: dict[str, Waits] = {}
    for name, make, delay in (
        ("`run_many`, main thread", run_many, 0.0),
        ("`run_many`, a thread", lambda pool, n: beside(run_many(pool, n), stack), 0.0),
        ("`run`, main thread", run_one, 0.0),
        ("`run`, a thread", lambda pool, n: beside(run_one(pool, n), stack), 0.0),
        # NOTE: who is ahead of the batch waits for the others, which come as fast as they can
        ("`submit`", submit, 0.005),
        ("`run`, 32 threads", lambda pool, n: threads(pool, n, stack), 0.0),
        ("`arun`", lambda pool, n: tasks(pool, n, stack), 0.005),
    ):

        def make_pool(meter: Waits | None, delay: float = delay) -> StreamPool:
            return stack.enter_context(
                StreamPool(model, capacity=count, max_batch=most, max_delay=delay, meter=meter)
            )

        ways[name] = make(make_pool(None), count)
        waits[name] = Waits([])
        step = make(make_pool(waits[name]), count)
        for _ in range(max(3, 2000 // count)):
            step()
    return ways, waits


@dataclass(frozen=True)
class Measured:
    """One way, at one number of streams.

    Attributes:
        rows: Rows a second, the median of the rounds.
        ratios: Rows a second divided by the bare session's, of each round, sorted.
        waits: Seconds from a call to the start of its batch; empty where nobody waits.
    """

    rows: float
    ratios: list[float]
    waits: list[float]

    @property
    def ratio(self) -> str:
        """The median, and the smallest and the largest."""
        low, high = self.ratios[0], self.ratios[-1]
        return f"{statistics.median(self.ratios):.2f} ({low:.2f} to {high:.2f})"

    def wait(self, percentile: int) -> str:
        """In milliseconds."""
        return f"{1e3 * np.percentile(self.waits, percentile):.3f}" if self.waits else ""


def compare(args: argparse.Namespace, count: int) -> dict[str, Measured]:
    """All ways by turns, at one number of streams."""
    data = lstm(args.units, FEATURES)
    model = Model.load(data)
    with ExitStack() as stack:
        ways, waits = build(model, data, args.units, count, args.max_batch, stack)
        for step in ways.values():
            step()
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, step in ways.items():
                rates[name].append(rate(step, args.seconds))
    first = rates[BARE]
    return {
        name: Measured(
            statistics.median(measured),
            sorted(one / other for one, other in zip(measured, first, strict=True)),
            waits[name].values if name in waits else [],
        )
        for name, measured in rates.items()
    }


def show(
    console: Console, args: argparse.Namespace, count: int, found: dict[str, Measured]
) -> None:
    """A table on the terminal."""
    table = Table(title=f"{count} streams, LSTM {args.units}, batches of up to {args.max_batch}")
    for title in ("way", "rows/s", "of the bare session", "p50 wait, ms", "p99 wait, ms"):
        table.add_column(title, justify="left" if title == "way" else "right")
    for name, one in found.items():
        table.add_row(name, f"{one.rows:,.0f}", one.ratio, one.wait(50), one.wait(99))
    console.print(table)


def page(args: argparse.Namespace, found: dict[int, dict[str, Measured]]) -> str:
    """The section of the page."""
    counts = list(found)
    titles = [f"{count:,} stream{'s' if count > 1 else ''}" for count in counts]
    names = list(found[counts[0]])
    bare_row = [BARE + ", rows a second", *(f"{found[n][BARE].rows:,.0f}" for n in counts)]
    ratios = [[name, *(found[n][name].ratio for n in counts)] for name in names if name != BARE]
    waiting = [name for name in names if found[counts[0]][name].waits]
    waits = [
        [name, *(f"{found[n][name].wait(50)}, {found[n][name].wait(99)}" for n in counts)]
        for name in waiting
    ]
    return f"""`{COMMAND}`: an LSTM of {args.units} units, {FEATURES} features, one step
a call, batches of up to {args.max_batch}, one thread of ONNX Runtime, {args.rounds} rounds by
turns. Rows a second divided by those of a bare `InferenceSession` with the same batch whose states
are passed by hand: median (smallest to largest).

{machine(("onnxruntime", "numpy"))}

{markdown(["Way", *titles], [bare_row, *ratios])}

From the call to the start of its batch, in milliseconds: median, and 99th percentile.

{markdown(["Way", *titles], waits)}"""


def main() -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 256, 4096])
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--max-batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each way in each round")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    console = Console(width=110)
    console.print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}; {COMMAND}")
    found = {}
    for count in args.streams:
        found[count] = compare(args, count)
        show(console, args, count, found[count])
    if args.write:
        write_section("pool", page(args, found))


if __name__ == "__main__":
    main()
