"""Thousands of streams that open, step, idle, are evicted, come back and close at random.

Usage:
    python benchmarks/soak.py --minutes 10 --streams 6144
    python benchmarks/soak.py --minutes 0.05 --streams 200 --interval 1

Two pools are driven by threads (blocking calls, Futures, `run_many`) and by an asyncio loop, whose
calls are cancelled at random. Every input is a function of the stream and its step.

- In the first pool the state is a running hash of all inputs since the stream was opened, in
  exact integers: one that is lost, doubled, out of order or another stream's shows in the
  next output.
- In the second it is an LSTM's, and a sample of streams is compared, bit for bit, with a
  StatefulSession that is fed the same.

There are twice as many clients as places, a third of which are busy at a time: the others go
idle, are evicted, and are restored when their turn comes again.

Ends with status 1 if anything was wrong. Memory is flat if the last quarter has no more than
the second one, give or take 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))

from _graphs import lstm, model_bytes

from rnnonnx.errors import RnnonnxError, StreamClosedError
from rnnonnx.manifest import Manifest, Source, StateTensor, Tensor
from rnnonnx.runtime import Model, StatefulSession, Stream, StreamPool

BASE, PRIME = 1000003, 2**31 - 1
UNITS, FEATURES = 32, 8
PAGE = 4096
COMMAND = "python benchmarks/soak.py --minutes 10 --streams 6144"


def ledger() -> bytes:
    """H = (h * BASE + x) mod PRIME, y = h; int64 [batch, 1] each."""
    x, y = (Tensor(name, "int64", ("batch", 1), 0) for name in "xy")
    state = StateTensor("h", "h_in", "h_out", "int64", ("batch", 1))
    nodes = [
        helper.make_node("Mul", ["h_in", "base"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["sum"]),
        helper.make_node("Mod", ["sum", "prime"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y"]),
    ]
    constants = {"base": np.array(BASE), "prime": np.array(PRIME)}
    source = Source("onnx", "ledger", "sha256:" + "1" * 64)
    return model_bytes(Manifest("soak", source, (x,), (y,), (state,)), nodes, constants)


@dataclass
class Log:
    """What all threads do and find, under one lock."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, amount: int = 1) -> None:
        """Something has happened."""
        with self.lock:
            self.counts[what] += amount

    def wrong(self, text: str) -> None:
        """Something has gone wrong."""
        with self.lock:
            self.errors.append(text)


class Client:
    """One stream of the first pool, and what its state may be.

    Attributes:
        possible: Its state, as pairs of the hash and the number of steps; two where a cancelled
            call may or may not have had its effect.
    """

    def __init__(self, name: str, pool: StreamPool, kept: dict[str, bytes], log: Log) -> None:
        self.name = name
        self.pool = pool
        self.kept = kept
        self.log = log
        self.seed = zlib.crc32(name.encode()) % 1000
        self.stream: Stream | None = None
        self.possible: set[tuple[int, int]] = set()

    def open(self) -> Stream:
        """Its stream, opened anew or, after it was evicted, restored."""
        if self.stream is not None and self.stream.closed:
            self.stream = self.pool.open(self.name, wait=60)
            self.stream.restore(self.kept.pop(self.name))
            self.log.count("restored")
        elif self.stream is None:
            self.stream = self.pool.open(self.name, wait=60)
            self.possible = {(0, 0)}
        return self.stream

    def close(self) -> None:
        """Close its stream, if it has one."""
        if self.stream is not None:
            self.stream.close()
            # an eviction may have come first
            self.kept.pop(self.name, None)
            self.stream = None

    def x(self) -> int:
        """The next input: all possible states have one, of the fewest steps."""
        return (min(steps for _, steps in self.possible) * 7919 + self.seed) % 100003

    def after(self, x: int) -> set[tuple[int, int]]:
        """What its state may be after this input."""
        return {((h * BASE + x) % PRIME, steps + 1) for h, steps in self.possible}

    def check(self, x: int, y: int) -> None:
        """Compare a result with what it may be."""
        fit = {state for state in self.after(x) if state[0] == y}
        if not fit:
            self.log.wrong(f"{self.name}: {y} is none of {self.after(x)}")
            fit = {(y, 0)}
        self.possible = fit
        self.log.count("rows checked")


def choose(clients: list[Client], rng: random.Random, count: int, idle: float) -> list[Client]:
    """Some clients out of the third that is busy now; it moves on, and the rest goes idle."""
    third = max(1, len(clients) // 3)
    first = int(time.monotonic() / (2 * idle)) * third // 2
    places = rng.sample(range(third), min(third, count))
    return [clients[(first + place) % len(clients)] for place in places]


def drive(clients: list[Client], seed: int, end: float, log: Log, idle: float) -> None:
    """A thread: random things to random clients."""
    rng = random.Random(seed)  # noqa: S311
    while time.monotonic() < end:
        chosen = choose(clients, rng, rng.choice((1, 1, 8, 64)), idle)
        try:
            action = rng.random()
            if action < 0.1:
                for client in chosen[:4]:
                    client.close()
                log.count("closed", len(chosen[:4]))
            elif action < 0.4:
                step_each(chosen[:8], rng)
            else:
                step_together(chosen)
        except StreamClosedError:
            log.count("met an eviction")  # it came between the look and the call: again
        except RnnonnxError as error:
            log.wrong(repr(error))
        if rng.random() < 0.02:
            time.sleep(0.01)


def step_together(chosen: list[Client]) -> None:
    pool = chosen[0].pool
    streams = [client.open() for client in chosen]
    xs = [client.x() for client in chosen]
    y = pool.run_many(streams, np.array(xs)[:, None], wait=60)
    assert isinstance(y, np.ndarray)
    for client, x, value in zip(chosen, xs, y[:, 0].tolist(), strict=True):
        client.check(x, value)


def step_each(chosen: list[Client], rng: random.Random) -> None:
    for client in chosen:
        stream, x = client.open(), client.x()
        feed = {"x": np.array([[x]])}
        if rng.random() < 0.5:
            (y,) = stream.run(None, feed, wait=60)
        else:
            (y,) = stream.submit(None, feed, wait=60).result(60)
        client.check(x, int(y[0, 0]))


async def drive_tasks(clients: list[Client], seed: int, end: float, log: Log, idle: float) -> None:
    """A loop: random clients at once, some of them cancelled."""
    rng = random.Random(seed)  # noqa: S311

    async def one(client: Client) -> None:
        stream = await asyncio.to_thread(client.open)  # it may wait for a place
        x = client.x()
        task = asyncio.create_task(stream.arun(None, {"x": np.array([[x]])}, wait=60))
        if rng.random() < 0.2:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            (y,) = await task
            client.check(x, int(y[0, 0]))
        except asyncio.CancelledError:
            client.possible |= client.after(x)
            log.count("cancelled")
        except StreamClosedError:
            log.count("met an eviction")

    while time.monotonic() < end:
        chosen = choose(clients, rng, 32, idle)
        for result in await asyncio.gather(*map(one, chosen), return_exceptions=True):
            if isinstance(result, BaseException):
                log.wrong(repr(result))


def compare(pool: StreamPool, count: int, seed: int, end: float, log: Log) -> None:
    """A thread: LSTM streams beside sessions."""
    rng = np.random.default_rng(seed)
    pairs: dict[str, tuple[Stream, StatefulSession]] = {}
    while time.monotonic() < end:
        name = f"{seed}.{rng.integers(count)}"
        try:
            if name not in pairs:
                pairs[name] = pool.open(name, wait=60), StatefulSession(pool.model)
            stream, session = pairs[name]
            x = rng.normal(size=(1, int(rng.integers(1, 6)), FEATURES)).astype("float32")
            if not np.array_equal(stream.run(None, {"x": x}, wait=60)[0], session(x)):
                log.wrong(f"{name}: the LSTM's output is not the session's")
            log.count("LSTM chunks compared")
            if rng.random() < 0.05:
                if rng.random() < 0.5:
                    session.restore(stream.snapshot())
                else:
                    stream.close()
                    del pairs[name]
        except RnnonnxError as error:
            log.wrong(repr(error))


def resident() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def watch(pool: StreamPool, end: float, interval: float, log: Log) -> list[float]:
    """Print a line every interval; the resident memory at each."""
    start, before, memory = time.monotonic(), 0, []
    while time.monotonic() < end:
        time.sleep(max(0.0, min(interval, end - time.monotonic())))
        stats = pool.stats()
        memory.append(resident())
        print(
            f"{time.monotonic() - start:7.0f} s  {memory[-1]:7.1f} MiB  open {stats.streams:5}  "
            f"rows {stats.rows:10}  (+{stats.rows - before})  evicted {stats.evicted:6}  "
            f"restored {log.counts['restored']:6}  errors {len(log.errors)}",
            flush=True,
        )
        before = stats.rows
    return memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=6144)
    parser.add_argument("--interval", type=float, default=15, help="seconds between lines")
    parser.add_argument("--idle", type=float, default=None, help="seconds that make a stream idle")
    args = parser.parse_args()
    seconds = 60 * args.minutes
    idle = args.idle or min(5.0, seconds / 10)
    log = Log()
    kept: dict[str, bytes] = {}
    sessions = Model.load(lstm(UNITS, FEATURES))
    end = time.monotonic() + seconds
    with (
        StreamPool(
            ledger(),
            capacity=args.streams,
            max_batch=256,
            idle_timeout=idle,
            on_evict=kept.__setitem__,
        ) as pool,
        StreamPool(sessions, capacity=64) as sample,
    ):
        clients = [Client(str(i), pool, kept, log) for i in range(2 * args.streams)]
        shares = [clients[i::5] for i in range(5)]
        team = [
            threading.Thread(target=drive, args=(share, i, end, log, idle))
            for i, share in enumerate(shares[:4])
        ]
        team.append(
            threading.Thread(target=lambda: asyncio.run(drive_tasks(shares[4], 4, end, log, idle)))
        )
        team += [threading.Thread(target=compare, args=(sample, 16, i, end, log)) for i in (5, 6)]
        for thread in team:
            thread.start()
        memory = watch(pool, end, args.interval, log)
        for thread in team:
            thread.join(120)
            if thread.is_alive():
                log.wrong("a thread waits without end")
        stats = pool.stats()
    print(f"{COMMAND}: this run had --minutes {args.minutes:g} --streams {args.streams}")
    totals = ("opened", "closed", "evicted", "refused", "failed", "requests", "batches", "rows")
    print({name: getattr(stats, name) for name in totals})
    print(dict(log.counts))
    quarter = len(memory) // 4
    if quarter:
        early, late = (
            sum(part) / quarter for part in (memory[quarter : 2 * quarter], memory[-quarter:])
        )
        print(f"memory: {early:.1f} MiB in the second quarter, {late:.1f} MiB in the last")
        if late > 1.05 * early and seconds >= 60:
            log.wrong("memory has grown")
    for text in log.errors[:20]:
        print("ERROR", text)
    print(f"errors {len(log.errors)}")
    return int(bool(log.errors))


if __name__ == "__main__":
    sys.exit(main())
