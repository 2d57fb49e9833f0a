"""Processes that share a store, killed and halted at random moments: no step lost, none doubled.

Usage:
    python benchmarks/store_kill.py                       # SQLite, 200 kills
    python benchmarks/store_kill.py --store redis         # a Redis server of its own
    python benchmarks/store_kill.py --without-compare     # the negative control: it must fail
    python benchmarks/store_kill.py --json                # the totals as JSON

Two processes step the streams of one store, whichever is asked; each has a pool of its own with
fewer places than there are streams. A client asks one of them at random for each next step, waits a
moment, and asks the other one if there is no answer, until there is one. At random moments a
process is sent SIGKILL, and another takes its place; or SIGSTOP, and goes on later, with what it
was about to write. After that:

- each answer is what an uninterrupted run gives at that step, bit for bit; so is one that comes
  late, from a process that was halted;
- the store is at the step of each stream's last answer, with the uninterrupted run's state.

A step that was lost or doubled changes every output after it. With `--without-compare` the store
writes whatever it is told: exit status 1 then, as with any other finding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _graphs import lstm
from _redis_server import redis_server

from rnnonnx.errors import RnnonnxError
from rnnonnx.runtime import Model, StatefulSession, StreamPool
from rnnonnx.scale.store import Entry, Mark, RedisStore, SqliteStore, StateStore, StoredStreams

UNITS, FEATURES, STREAMS, PLACES = 32, 4, 8, 3
PHASES = ("starting", "waiting", "getting", "running", "putting", "answering")
SHORTLY = 0.05  # seconds that the client waits before it asks the other process
PATIENCE = 60.0  # seconds after which a process that says nothing has failed
LONGEST = 0.03  # seconds between two signals, at most
WHILE_PUTTING = 0.5  # of the signals, the share that waits until a process writes or has written
HALTED = (0.01, 0.15)  # seconds that a process is halted
PRELOADED = ["numpy", "onnxruntime", "rnnonnx.runtime", "rnnonnx.runtime.pool", "redis"]
PRELOADED += ["rnnonnx.scale.store", "safetensors.numpy"]


class Finding(Exception):  # noqa: N818
    """Something that must not be."""


def open_store(url: str) -> StateStore:
    """The store that a URL names: of Redis, or the path of an SQLite file."""
    return RedisStore(url) if url.startswith("redis:") else SqliteStore(url)


def frames(stream: int, step: int) -> np.ndarray[Any, Any]:
    """What a stream is fed at a step, float32 [1, 1 to 3 steps, FEATURES]."""
    rng = np.random.default_rng([stream, step])
    return rng.random((1, 1 + step % 3, FEATURES), dtype="float32")


# --- the processes that are killed ----------------------------------------------------------


class Watched:
    """A store that tells what it is at; without its comparison, if so asked."""

    def __init__(self, inner: StateStore, phase: Any, *, compares: bool) -> None:
        self._inner, self._phase, self._compares = inner, phase, compares

    def get(self, stream: str) -> Entry | None:
        """As the store."""
        self._phase.value = PHASES.index("getting")
        try:
            return self._inner.get(stream)
        finally:
            self._phase.value = PHASES.index("running")

    def put(self, stream: str, entry: Entry, *, expected: Mark | None) -> bool:
        """As the store; or whatever is there."""
        self._phase.value = PHASES.index("putting")
        if not self._compares:
            there = self._inner.get(stream)
            expected = None if there is None else there.mark
        done = self._inner.put(stream, entry, expected=expected)
        self._phase.value = PHASES.index("answering")
        return done

    def delete(self, stream: str) -> bool:
        """As the store."""
        return self._inner.delete(stream)

    def close(self) -> None:
        """As the store."""
        self._inner.close()


def serve(connection: Any, model: Path, url: str, phase: Any, compares: bool) -> None:  # noqa: FBT001
    """Answer requests, one after the other, until the other end is closed."""
    store = Watched(open_store(url), phase, compares=compares)
    with StreamPool(model, capacity=PLACES) as pool, StoredStreams(pool, store) as streams:
        while True:
            phase.value = PHASES.index("waiting")
            try:
                stream, step = connection.recv()
            except EOFError:
                return
            phase.value = PHASES.index("running")
            try:
                answer = streams.run(str(stream), step, {"x": frames(stream, step)})
                said = (stream, step, answer.outputs[0].tobytes(), answer.replayed)
            except RnnonnxError as error:
                said = (stream, step, error, False)
            phase.value = PHASES.index("answering")
            connection.send(said)


# --- the one that asks and kills -----------------------------------------------------------


@dataclass
class Totals:
    """What happened."""

    store: str = ""
    killed: int = 0
    halted: int = 0
    killed_while: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    """Steps that were answered, each once."""
    asked_again: int = 0
    replayed: int = 0
    """Answers that had been given before, to nobody's knowledge."""
    late: int = 0
    """Answers of processes that were halted, to steps that others had answered."""
    refused_late: int = 0
    """Of those, refusals: the stream had gone on elsewhere."""
    lost: int = 0
    doubled: int = 0
    seconds: float = 0.0


class Server:
    """One of the processes, and what it owes an answer to."""

    def __init__(self, context: Any, *arguments: Any) -> None:
        self._context, self._arguments = context, arguments
        self.phase = context.RawValue("b", 0)
        self.lock = threading.Lock()
        self.owes: tuple[int, int] | None = None
        self.start()

    def start(self) -> None:
        """Start a process in the place of the one before."""
        self.owes = None
        self.connection, theirs = self._context.Pipe()
        self.phase.value = 0
        model, url, compares = self._arguments
        self.process = self._context.Process(
            target=serve, args=(theirs, model, url, self.phase, compares), daemon=True
        )
        self.process.start()
        theirs.close()

    def signal(self, number: int) -> str | None:
        """Send a signal; what the process was at, or None where it has ended."""
        phase = PHASES[self.phase.value]
        try:
            os.kill(self.process.pid, number)
        except ProcessLookupError:
            return None
        return phase

    def end(self) -> None:
        """Kill it, if it is there, and wait for its end."""
        self.process.kill()
        self.process.join(PATIENCE)
        self.connection.close()


class Client:
    """Asks for one step after the other, and checks each answer."""

    def __init__(self, url: str, model: Path, seed: int, *, compares: bool) -> None:
        self.totals = Totals(url.split(":")[0] if url.startswith("redis:") else "sqlite")
        self._random = random.Random(seed)  # noqa: S311
        self._model = Model.load(model)
        self._url = url
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._servers = [Server(context, model, url, compares) for _ in range(2)]
        self._whole = [StatefulSession(self._model) for _ in range(STREAMS)]
        self._expected: dict[tuple[int, int], bytes] = {}
        self._over = threading.Event()

    def run(self, kills: int) -> Totals:
        """Ask until so many processes have been killed, and check the store.

        Raises:
            Finding: A step was lost or doubled, or an answer is not the uninterrupted run's.
        """
        begin = time.perf_counter()
        killer = threading.Thread(target=self._kill, args=(kills,))
        killer.start()
        try:
            step = 0
            while not self._over.is_set():
                for stream in range(STREAMS):
                    self._ask(stream, step)
                step += 1
            killer.join(PATIENCE)
            self._check_store(step)
        finally:
            self._over.set()
            killer.join(PATIENCE)
            for server in self._servers:
                server.end()
            self.totals.seconds = time.perf_counter() - begin
        return self.totals

    def _kill(self, kills: int) -> None:
        """Send signals at random moments."""
        moments = random.Random(self._random.random())  # noqa: S311
        while not self._over.is_set() and self.totals.killed < kills:
            time.sleep(moments.uniform(0, LONGEST))
            server = moments.choice(self._servers)
            if moments.random() < WHILE_PUTTING:
                _wait_for(server, ("putting", "answering"))
            if moments.random() < 0.3:
                with server.lock:
                    halted = server.signal(signal.SIGSTOP)
                time.sleep(moments.uniform(*HALTED))
                with server.lock:
                    server.signal(signal.SIGCONT)
                self.totals.halted += halted is not None
                continue
            with server.lock:
                phase = server.signal(signal.SIGKILL)
                server.process.join(PATIENCE)
            if phase is not None:
                self.totals.killed += 1
                self.totals.killed_while[phase] += 1
            self._wait_for_life(server)
        self._over.set()

    def _wait_for_life(self, server: Server) -> None:
        """Until the client has noticed, and the next process has begun: most kills find one."""
        begin = time.monotonic()
        while not self._over.is_set() and time.monotonic() - begin < 1:
            if server.process.is_alive() and server.phase.value > 0:
                return
            time.sleep(0.001)

    def _ask(self, stream: int, step: int) -> None:
        """Ask for a step, here or there, until there is an answer."""
        (output,) = self._whole[stream].run(None, {"x": frames(stream, step)})
        self._expected[stream, step] = output.tobytes()
        begin = time.monotonic()
        tries = 0
        while True:
            if time.monotonic() - begin > PATIENCE:
                raise Finding(f"no answer to step {step} of stream {stream}")
            server = self._random.choice(self._servers)
            try:
                if server.owes is not None and not self._late(server):
                    time.sleep(0.0005)
                    continue
                tries += 1
                server.connection.send((stream, step))
                server.owes = (stream, step)
                if not server.connection.poll(SHORTLY):
                    continue
                said = server.connection.recv()
            except (EOFError, OSError):
                with server.lock:
                    server.end()
                    server.start()
                continue
            server.owes = None
            self._check(said, (stream, step))
            self.totals.steps += 1
            self.totals.asked_again += tries - 1
            self.totals.replayed += said[3]
            return

    def _late(self, server: Server) -> bool:
        """Take the answer that a process owes, if it is there by now."""
        if not server.connection.poll(0):
            return False
        said = server.connection.recv()
        self.totals.late += 1
        if isinstance(said[2], RnnonnxError):
            self.totals.refused_late += 1
        else:
            self._check(said, server.owes)
        server.owes = None
        return True

    def _check(self, said: tuple[int, int, Any, bool], asked: tuple[int, int] | None) -> None:
        stream, step, output, _ = said
        if (stream, step) != asked:
            raise Finding(f"asked for {asked}, answered {(stream, step)}")
        if isinstance(output, RnnonnxError):
            there = getattr(output, "step", None)
            if there is not None:
                self.totals.lost += max(0, step - there)
                self.totals.doubled += max(0, there - step)
            raise Finding(f"step {step} of stream {stream}: {output}")
        if output != self._expected[stream, step]:
            self.totals.doubled += 1
            raise Finding(f"the output of step {step} of stream {stream} is another one")

    def _check_store(self, steps: int) -> None:
        """Every stream is where its last answer left it."""
        store = open_store(self._url)
        session = StatefulSession(self._model)
        for stream, whole in enumerate(self._whole):
            entry = store.get(str(stream))
            there = 0 if entry is None else entry.mark.step
            self.totals.lost += max(0, steps - there)
            self.totals.doubled += max(0, there - steps)
            if entry is None or there != steps:
                raise Finding(f"stream {stream} is at step {there}, and was answered {steps}")
            session.reset_states()
            session.restore(entry.state)
            for name, value in session.get_states().items():
                if not np.array_equal(value, whole.get_states()[name]):
                    raise Finding(f"the state of stream {stream} is not the uninterrupted run's")
        store.close()


def _wait_for(server: Server, phases: tuple[str, ...]) -> None:
    """Wait a little until a process is at one of these, without giving away the processor."""
    begin = time.monotonic()
    while time.monotonic() - begin < 0.05 and PHASES[server.phase.value] not in phases:
        time.sleep(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--kills", type=int, default=200, help="processes to kill (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--without-compare", action="store_true", help="the negative control")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON")
    arguments = parser.parse_args()
    finding = ""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "model.onnx").write_bytes(lstm(UNITS, FEATURES))
        url = str(folder / "states.db")
        if arguments.store == "redis":
            url = stack.enter_context(redis_server())
        compares = not arguments.without_compare
        client = Client(url, folder / "model.onnx", arguments.seed, compares=compares)
        try:
            client.run(arguments.kills)
        except Finding as error:
            finding = str(error)
    if arguments.json:
        print(json.dumps({**vars(client.totals), "finding": finding}))
    else:
        show(client.totals, finding)
    return 1 if finding else 0


def show(totals: Totals, finding: str) -> None:
    phases = ", ".join(f"{totals.killed_while[name]} {name}" for name in PHASES)
    print(f"{totals.store}: {totals.killed} processes killed in {totals.seconds:.1f} s: {phases}")
    print(f"{totals.halted} halted for up to {HALTED[1] * 1000:.0f} ms")
    print(
        f"{totals.steps} steps answered, {totals.asked_again} of them asked again, "
        f"{totals.replayed} answered from the store"
    )
    print(
        f"{totals.late} answers came late, {totals.refused_late} of them refusals: the stream had "
        f"gone on elsewhere"
    )
    print(f"{totals.lost} lost, {totals.doubled} doubled")
    print(f"FOUND: {finding}" if finding else "all equal to the uninterrupted run, bit for bit")


if __name__ == "__main__":
    sys.exit(main())
