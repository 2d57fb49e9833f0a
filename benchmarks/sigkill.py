"""Killed at random moments, again and again: what was saved and what was computed hold.

Usage:
    python benchmarks/sigkill.py                 # 200 rounds
    python benchmarks/sigkill.py --rounds 5000 --seed 3
    python benchmarks/sigkill.py --json          # the totals as JSON

A process runs an LSTM over a sequence in pieces of 1 to 4 steps, writes every output to a log
and saves its state every fifth piece. Another sends it SIGKILL at a random moment, checks what
is there, and starts the next process, which goes on from the state file: from whatever
step count that names. After every round:

- each output in the log is what an uninterrupted run gives at that step, bit for bit;
- the state file can be read, is not older than the last save that returned, and is
  bit for bit the uninterrupted run's state at its step count.

At the end of the sequence it begins anew. The last process is left to end, every step has
been computed at least once, and no temporary file is left. Exit status 1 if any of it fails.

The processes are forked from a server that has imported what they need, so that a round takes
some tens of milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rnnonnx.runtime import Model, StatefulSession

ROWS, FEATURES, UNITS = 16, 8, 64
PIECES = 600
SAVE_EVERY = 5
LONGEST = 0.03  # seconds from a process's begin, or its first step, to its end, at most
WHILE_STARTING = 0.1  # of the processes, the share whose time counts from their begin
PATIENCE = 60.0  # seconds after which a process that says nothing has failed

# what this file imports, at its head and later: half of a process's time else
PRELOADED = ["argparse", "hashlib", "json", "random", "tempfile", "numpy.random"]
PRELOADED += ["onnxruntime", "rnnonnx.runtime"]

PHASES = ("starting", "running", "logging", "saving")
RECORD = struct.Struct("<qq")  # first step, bytes that follow; SAVED and the steps that were saved
SAVED = -1


class Finding(Exception):  # noqa: N818
    """Something that must not be."""


# --- the process that is killed -------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where everything lies."""

    folder: Path

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"

    @property
    def state(self) -> Path:
        """The state file, in a folder of its own."""
        return self.folder / "states" / "state.safetensors"

    @property
    def log(self) -> Path:
        """What the process has computed and saved."""
        return self.folder / "log"

    def left_behind(self) -> int:
        """Temporary files beside the state file."""
        return sum(path != self.state for path in self.state.parent.iterdir())


def sequence(seed: int) -> list[np.ndarray[Any, Any]]:
    """The pieces, float32 [1 to 4 steps, ROWS, FEATURES], the same in every process.

    NOTE: they are cut at the same steps in every run, since a kernel may add up in another
    order for another length.
    """
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 5, PIECES))
    x = rng.random((ends[-1], ROWS, FEATURES), dtype="float32") * 2 - 1
    return np.split(x, ends[:-1])


def work(place: Place, seed: int, phase: Any) -> None:
    """Go on from the state file, to the end of the sequence.

    Args:
        place: Where the files are.
        seed: Of the sequence.
        phase: A shared number that outlives the process: what it is at, counted from 1.
    """
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def enter(name: str) -> None:
        phase.value = 1 + PHASES.index(name)

    enter("starting")
    session = StatefulSession(place.model)
    if place.state.exists():
        session.load_states(place.state)
    first, step = session.steps, 0
    for number, piece in enumerate(pieces := sequence(seed)):
        if step >= first:
            enter("running")
            (y,) = session.run(["Y"], {"X": piece})
            enter("logging")
            content = y.tobytes()
            os.write(log, RECORD.pack(step, len(content)) + content)
        step += len(piece)
        if (step > first and number % SAVE_EVERY == 0) or number == len(pieces) - 1:
            enter("saving")
            session.save_states(place.state)
            enter("logging")
            os.write(log, RECORD.pack(SAVED, step))


# --- the process that kills -----------------------------------------------------------------


@dataclass
class Uninterrupted:
    """What a run gives that nobody kills."""

    outputs: dict[int, bytes] = field(default_factory=dict)
    """By the step that a piece begins with."""
    states: dict[int, bytes] = field(default_factory=dict)
    """Digest of the snapshot by its step count."""

    @classmethod
    def of(cls, model: Model, seed: int) -> Uninterrupted:
        """Run the whole sequence."""
        run, session = cls(), StatefulSession(model)
        for piece in sequence(seed):
            first = session.steps
            (y,) = session.run(["Y"], {"X": piece})
            run.outputs[first] = y.tobytes()
            run.states[session.steps] = hashlib.sha256(session.snapshot()).digest()
        return run

    @property
    def length(self) -> int:
        """Steps of the sequence."""
        return max(self.states)


def write_model(path: Path) -> None:
    """An LSTM, whose states are [1, batch, units] as ONNX has them, with a manifest."""
    import onnx
    from onnx import helper, numpy_helper

    from rnnonnx.annotate import annotate

    rng = np.random.default_rng(7)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.normal(size=shape) / 4).astype("float32"), name)

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = ["X", "W", "R", "B", "", "h_in", "c_in"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, ["Y", "h_out", "c_out"], hidden_size=UNITS)],
        "lstm",
        [tensor("X", "time", "batch", FEATURES)]
        + [tensor(name, 1, "batch", UNITS) for name in ("h_in", "c_in")],
        [tensor("Y", "time", 1, "batch", UNITS)]
        + [tensor(name, 1, "batch", UNITS) for name in ("h_out", "c_out")],
        [
            weights("W", 1, 4 * UNITS, FEATURES),
            weights("R", 1, 4 * UNITS, UNITS),
            weights("B", 1, 8 * UNITS),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    names = {"h_in": "lstm.h", "c_in": "lstm.c"}
    annotate(path, {"h_in": "h_out", "c_in": "c_out"}, names=names, output=path)


@dataclass
class Totals:
    """What happened in all rounds."""

    rounds: int = 0
    """Processes that were killed."""
    killed_while: Counter[str] = field(default_factory=Counter)
    before_the_rename: int = 0
    """Killed while saving, a temporary file left behind."""
    after_the_rename: int = 0
    """Killed while saving, the new file in place and the call not back."""
    restarts_from_a_state: int = 0
    sequences: int = 0
    """Ends of the sequence that were reached."""
    outputs: int = 0
    outputs_again: int = 0
    saves: int = 0
    most_left_behind: int = 0
    """Temporary files beside the state file at one time."""
    left_at_the_end: int = 0
    seconds: float = 0.0


class Killer:
    """Starts processes, kills them, and checks what they leave."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place, self.seed = place, seed
        self.totals = Totals()
        self._random = random.Random(seed)  # noqa: S311
        self._model = Model.load(place.model)
        self._uninterrupted = Uninterrupted.of(self._model, seed)
        self._seen: set[int] = set()
        self._saved = 0  # steps in the state file
        self._context = multiprocessing.get_context("forkserver")
        # in memory, so that it costs the processes no time
        self._phase = self._context.RawValue("b", 0)
        self._context.set_forkserver_preload(PRELOADED)

    def run(self, rounds: int, tell: Callable[[Totals], None]) -> Totals:
        """All rounds; `tell` hears of each.

        Raises:
            Finding: Something was lost, or is not what the uninterrupted run gives.
            StateFileError: A state file is not whole.
        """
        begin = time.perf_counter()
        while self.totals.rounds < rounds:
            self._round(kill=True)
            self.totals.seconds = time.perf_counter() - begin
            tell(self.totals)
        while self._saved or not self.totals.sequences:
            self._round(kill=False)
        self.totals.left_at_the_end = self.place.left_behind()
        if self.totals.left_at_the_end:
            raise Finding("temporary files are left at the end")
        return self.totals

    def _round(self, *, kill: bool) -> None:
        self.place.log.unlink(missing_ok=True)
        self._phase.value = 0
        self.totals.restarts_from_a_state += self._saved > 0
        left_before = self.place.left_behind()
        arguments = (self.place, self.seed, self._phase)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        try:
            early = self._random.random() < WHILE_STARTING
            self._wait(process, 1 if early else 2)
            process.join(self._random.uniform(0, LONGEST) if kill else PATIENCE)
            killed = process.exitcode is None
        finally:
            process.kill()  # SIGKILL
            process.join(PATIENCE)
        if not killed and process.exitcode != 0:
            raise Finding(f"a process ended by itself, with exit code {process.exitcode}")
        if killed and not kill:
            raise Finding(f"a process has not come to an end in {PATIENCE} s")
        self._check(PHASES[self._phase.value - 1], left_before, killed=killed)

    def _wait(self, process: Any, number: int) -> None:
        """Wait until the process has come to this phase, or has ended."""
        begin = time.monotonic()
        while self._phase.value < number and process.exitcode is None:
            if time.monotonic() - begin > PATIENCE:
                raise Finding("a process did not begin")
            time.sleep(0.0005)

    def _check(self, phase: str, left_before: int, *, killed: bool) -> None:
        totals, reported = self.totals, 0
        for first, content in self._log():
            if first == SAVED:
                reported = int.from_bytes(content, "little")
                totals.saves += 1
                continue
            if content != self._uninterrupted.outputs.get(first):
                raise Finding(f"the output of step {first} is not the uninterrupted run's")
            totals.outputs += 1
            totals.outputs_again += first in self._seen
            self._seen.add(first)
        before, self._saved = self._saved, self._read_state()
        if self._saved < max(before, reported):
            raise Finding(f"a state of step {max(before, reported)} was lost")
        left = self.place.left_behind()
        totals.most_left_behind = max(totals.most_left_behind, left)
        if killed:
            totals.rounds += 1
            totals.killed_while[phase] += 1
            totals.before_the_rename += left > left_before
            totals.after_the_rename += self._saved > max(before, reported)
        elif self._saved != self._uninterrupted.length:
            raise Finding(f"a process ended by itself at step {self._saved}")
        else:
            totals.sequences += 1
            if self._seen != set(self._uninterrupted.outputs):
                raise Finding("steps are missing that no process has logged")
            self._seen.clear()
            self.place.state.unlink()
            self._saved = 0

    def _log(self) -> Iterator[tuple[int, bytes]]:
        """The records that are whole."""
        data = self.place.log.read_bytes() if self.place.log.exists() else b""
        position = 0
        while position + RECORD.size <= len(data):
            first, size = RECORD.unpack_from(data, position)
            position += RECORD.size
            if first == SAVED:
                yield SAVED, size.to_bytes(8, "little")
                continue
            if position + size > len(data):
                break  # killed while it wrote the last one
            yield first, data[position : position + size]
            position += size

    def _read_state(self) -> int:
        if not self.place.state.exists():
            return 0
        session = StatefulSession(self._model)
        session.load_states(self.place.state)  # raises where it is anything but whole
        digest = hashlib.sha256(session.snapshot()).digest()
        if digest != self._uninterrupted.states.get(session.steps):
            raise Finding(f"the state of step {session.steps} is not the uninterrupted run's")
        return session.steps


def show(totals: Totals) -> None:
    phases = ", ".join(f"{totals.killed_while[name]} {name}" for name in PHASES)
    print(f"{totals.rounds} processes killed in {totals.seconds:.1f} s: {phases}")
    print(
        f"  of those saving, {totals.before_the_rename} had not yet renamed the temporary file, "
        f"{totals.after_the_rename} had and did not come back"
    )
    print(
        f"{totals.restarts_from_a_state} went on from a state file; {totals.sequences} times to "
        f"the end of the sequence"
    )
    print(
        f"{totals.outputs} outputs, {totals.outputs_again} of them again, each that of the "
        f"uninterrupted run, bit for bit"
    )
    print(f"{totals.saves} saves came back, none was lost, and no state file was unreadable")
    print(
        f"temporary files left at one time: {totals.most_left_behind} at most, "
        f"{totals.left_at_the_end} at the end"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200, help="processes to kill (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the data (0)")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON")
    arguments = parser.parse_args()

    def tell(totals: Totals) -> None:
        if sys.stderr.isatty():
            print(f"\r{totals.rounds} killed", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.state.parent.mkdir()
        write_model(place.model)
        killer = Killer(place, arguments.seed)
        try:
            killer.run(arguments.rounds, tell)
        except (Finding, ValueError) as finding:  # StateFileError is a ValueError
            print(f"\nafter {killer.totals.rounds} rounds: {finding}", file=sys.stderr)
            return 1
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if arguments.json:
        print(json.dumps(vars(killer.totals), indent=2))
    else:
        show(killer.totals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
