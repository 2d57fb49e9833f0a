"""Processes that take turns: each peer in one of its own, asked over a pipe, one at a time."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .work import Array, Cell

# Read by the libraries when they are loaded. XLA has a pool of its own.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_LOADING = 120.0  # seconds that a peer may take to load a cell
_LONG = 0.02  # seconds of a call from which a turn begins without one that is not timed

Contestant = Callable[[Array], Array]


class PeerError(Exception):
    """A peer failed: what it says is the result."""


@dataclass
class Peer:
    """A peer's process, seen from outside.

    Attributes:
        module: The module of `_peers` that it runs.
    """

    module: str
    _process: Any = None
    _pipe: Any = None

    def ask(self, command: str, *arguments: Any, seconds: float = 60.0) -> Any:
        """Have something done, and wait for it.

        Raises:
            PeerError: It failed, ended or took too long.
        """
        self._start()
        try:
            self._pipe.send((command, *arguments))
            if not self._pipe.poll(seconds):
                self.stop()
                raise PeerError(f"no answer within {seconds:.0f} s")
            good, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise PeerError("its process ended") from error
        if not good:
            raise PeerError(value)
        return value

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.module, other), daemon=True)
            self._process.start()
            other.close()


@contextmanager
def one_thread() -> Iterator[None]:
    """Environment variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(module: str, pipe: Any) -> None:
    """What a peer's process does until the pipe is closed."""
    host = _Host(module)
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(host, command)(*arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the peer's result
            answer = (False, _reason(error))
        pipe.send(answer)


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0].strip() if lines else ""
    if os.environ.get("PEERS_TRACEBACK"):
        traceback.print_exc()
    return f"{type(error).__name__}: {text[:120]}"


@dataclass
class _Host:
    """The inside of a peer's process."""

    module: str
    runners: dict[str, Contestant] = field(default_factory=dict)
    x: Any = None

    def make(self, folder: Path, work: str) -> dict[str, str]:
        """Write the files of a work (the Keras peer alone)."""
        found: dict[str, str] = self._peer().make(folder, work)
        return found

    def expected(self, cell: Cell) -> Array:
        """What Keras gives (the Keras peer alone)."""
        result: Array = self._peer().expected(cell)
        return result

    def load(self, folder: Path, cell: Cell) -> dict[str, str]:
        """Make ready for a cell: each contestant, with why it does not run, if so."""
        self.runners.clear()
        gc.collect()
        self.x = cell.draw()
        found: dict[str, Contestant | str] = self._peer().load(folder, cell)
        self.runners = {name: item for name, item in found.items() if not isinstance(item, str)}
        return {name: item if isinstance(item, str) else "" for name, item in found.items()}

    def run(self, name: str) -> Array:
        """One result."""
        return np.array(self.runners[name](self.x))

    def time(self, name: str, calls: int, clock: str) -> float:
        """Seconds of a call, the mean of some."""
        now = time.process_time if clock == "cpu" else time.perf_counter
        run, x = self.runners[name], self.x
        gc.disable()
        begin = now()
        run(x)
        first = now() - begin
        if first < _LONG:
            begin = now()
            for _ in range(calls):
                run(x)
            first = (now() - begin) / calls
        gc.enable()
        return first

    def _peer(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.module}")


@dataclass(frozen=True)
class Entry:
    """A contestant of a cell.

    Attributes:
        name: What the tables call it.
        peer: Whose process it is in.
        reason: Why it does not run; empty if it does.
    """

    name: str
    peer: Peer
    reason: str = ""


def load_all(peers: Sequence[Peer], folder: Path, cell: Cell) -> list[Entry]:
    """The contestants of a cell, each loaded and its result compared with Keras's."""
    keras = next(peer for peer in peers if peer.module == "keras_peer")
    expected = keras.ask("expected", cell, seconds=_LOADING)
    entries = []
    for peer in peers:
        try:
            found = peer.ask("load", folder, cell, seconds=_LOADING)
        except PeerError as error:
            entries.append(Entry(peer.module.removesuffix("_peer"), peer, str(error)))
            continue
        for name, reason in found.items():
            entries.append(Entry(name, peer, reason or _compare(peer, name, expected)))
    return entries


def _compare(peer: Peer, name: str, expected: Array) -> str:
    if name.startswith("sgemm"):
        return ""
    try:
        got = peer.ask("run", name)
    except PeerError as error:
        return str(error)
    if got.shape != expected.shape:
        return f"gives {list(got.shape)}, not {list(expected.shape)}"
    error = float(np.max(np.abs(got - expected) / np.maximum(1.0, np.abs(expected))))
    return "" if error <= 1e-4 else f"wrong: off by {error:.2g}"


def take_turns(
    entries: Sequence[Entry], *, seconds: float, turn: float, clock: str
) -> dict[str, list[float]]:
    """Seconds a call of each contestant that runs, in each round.

    Args:
        entries: The contestants.
        seconds: About how long all rounds may take: there are 3 to 40.
        turn: About how long a turn takes, if a call does not take longer.
        clock: `wall`, or `cpu`, the processor time of the contestant's process.
    """
    running = [entry for entry in entries if not entry.reason]
    single = {e.name: e.peer.ask("time", e.name, 2, clock) for e in running}
    calls = {name: max(1, round(turn / max(one, 1e-7))) for name, one in single.items()}
    each = sum((calls[name] + (one < _LONG)) * one for name, one in single.items())
    rounds = int(min(40, max(3, seconds / max(each, 1e-6))))
    times: dict[str, list[float]] = {entry.name: [] for entry in running}
    for number in range(rounds):
        shift = number % len(running)
        for entry in running[shift:] + running[:shift]:
            times[entry.name].append(
                entry.peer.ask("time", entry.name, calls[entry.name], clock, seconds=120.0)
            )
    return times
