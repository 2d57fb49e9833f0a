"""Streams served on Ray, their replicas killed at random moments: no step lost, none doubled.

Usage (Ray listens on the machine's own address, hence the namespace):
    python benchmarks/loopback.py python benchmarks/serve_kill.py
    python benchmarks/loopback.py python benchmarks/serve_kill.py --store sqlite --kills 5
    python benchmarks/loopback.py python benchmarks/serve_kill.py --store none    # must fail
    python benchmarks/loopback.py python benchmarks/serve_kill.py --kills 0 --seconds 10
    python benchmarks/serve_kill.py --engine local --kills 0 --seconds 10    # to compare with

Starts a Redis server, and `run_online` in a process of its own. Clients in threads step their
streams over HTTP, each request with its number, and ask again until they have an answer.
Meanwhile replicas, and now and then a front, are sent SIGKILL. Each answer is compared with that
of an uninterrupted run: the outputs, and the number of time steps that the stream has been
carried, which a step that was lost or doubled would make another for good. `--store none` is the
negative control: each replica keeps states in memory of its own. Exit status 1 with any finding.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _graphs import lstm
from _redis_server import redis_server

from rnnonnx.runtime import Model, StatefulSession
from rnnonnx.scale.online import Cluster, StoreAt, run_online
from rnnonnx.scale.store import Entry, Mark
from rnnonnx.serve import ModelFile, Pooling, Settings

UNITS, FEATURES = 32, 4
LOCAL = "local"
"""One process with a pool and no store, and so no numbers of requests; not to be killed."""
STARTING = 90.0  # seconds that the servers have to start
PATIENCE = 60.0  # seconds after which a step without an answer is a finding
TIMEOUT = 20.0  # seconds that a client waits for one answer
BETWEEN = (0.3, 2.5)  # seconds between two kills
TOLERANCE = 1e-5
"""Batches of other sizes give other last bits; a step too many or too few is off by 0.01."""


class Finding(Exception):  # noqa: N818
    """Something that must not be."""


class Memory:
    """No store: states in the memory of one process. The negative control."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def get(self, stream: str) -> Entry | None:
        """As a store."""
        return self._entries.get(stream)

    def put(self, stream: str, entry: Entry, *, expected: Mark | None) -> bool:
        """As a store."""
        with self._lock:
            there = self._entries.get(stream)
            if (None if there is None else there.mark) != expected:
                return False
            self._entries[stream] = entry
            return True

    def delete(self, stream: str) -> bool:
        """As a store."""
        return self._entries.pop(stream, None) is not None

    def close(self) -> None:
        """As a store."""


def serve(model: str, url: str, replicas: int) -> None:
    """The process that starts and ends the deployments."""
    settings = Settings(
        models=(ModelFile("lstm", Path(model)),), http_port=0, pooling=Pooling(capacity=64)
    )
    run_online(
        settings,
        Cluster(replicas=replicas),
        Memory if url == "none" else StoreAt(url),
        lambda address: print(address, flush=True),
    )


# --- the one that asks and kills -----------------------------------------------------------


@dataclass
class Totals:
    """What happened."""

    store: str
    streams: int
    steps: int = 0
    """Steps that were answered, each once."""
    killed: Counter[str] = field(default_factory=Counter)
    asked_again: int = 0
    replayed: int = 0
    """Answers that had been given before, to nobody's knowledge."""
    lost: int = 0
    doubled: int = 0
    off: float = 0.0
    """Largest difference of an output."""
    longest: float = 0.0
    """Seconds from a request to its answer, at most, all its tries together."""
    seconds: float = 0.0
    median: float = 0.0
    """Seconds from a request to its answer, where half took longer."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of processor time of each kind of process, where none was killed."""


def frames(stream: int, step: int) -> np.ndarray[Any, Any]:
    """What a stream is fed at a step, float32 [1, 1 to 3 steps, FEATURES]."""
    rng = np.random.default_rng([stream, step])
    return rng.random((1, 1 + step % 3, FEATURES), dtype="float32")


class Clients:
    """Steps streams in threads, and checks each answer, until told to stop."""

    def __init__(self, address: str, model: Path, totals: Totals) -> None:
        self._host = address.removeprefix("http://")
        self._model = Model.load(model)
        self._totals = totals
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.spent: list[float] = []

    def run(self, stream: int) -> None:
        """Step one stream.

        Raises:
            Finding: A step was lost or doubled, or an answer is not the uninterrupted run's.
        """
        session = StatefulSession(self._model)
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT)
        step = time_steps = 0
        last = False
        try:
            while not last:
                last = self.over.is_set()
                x = frames(stream, step)
                time_steps += x.shape[1]
                begin = time.monotonic()
                answer, tries = self._ask(connection, stream, step, x, last)
                self._check(stream, step, answer, session(x), time_steps)
                with self._lock:
                    self._totals.steps += 1
                    self._totals.asked_again += tries - 1
                    self._totals.replayed += answer["parameters"].get("sequence_replayed", False)
                    spent = time.monotonic() - begin
                    self.spent.append(spent)
                step += 1
        except Finding:
            self.over.set()
            raise
        finally:
            connection.close()

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        stream: int,
        step: int,
        x: np.ndarray[Any, Any],
        last: bool,  # noqa: FBT001
    ) -> tuple[dict[str, Any], int]:
        body = json.dumps(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": list(x.shape),
                        "data": x.ravel().tolist(),
                    }
                ],
                "parameters": {
                    "sequence_id": f"stream {stream}",
                    "sequence_start": step == 0,
                    "sequence_end": last,
                }
                | ({} if self._totals.store == LOCAL else {"sequence_request": step}),
            }
        )
        begin = time.monotonic()
        tries = 0
        said = ""
        while time.monotonic() - begin < PATIENCE:
            tries += 1
            try:
                connection.request("POST", "/v2/models/lstm/infer", body)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                said = repr(error)
                time.sleep(0.1)
                continue
            if response.status == 200:
                return json.loads(content), tries
            said = f"status {response.status}: {content[:300]!r}"
            if response.status < 500:
                with self._lock:
                    self._totals.lost += 1
                raise Finding(f"step {step} of stream {stream} is refused: {said}")
            time.sleep(0.1)
        raise Finding(f"no answer to step {step} of stream {stream}: {said}")

    def _check(
        self,
        stream: int,
        step: int,
        answer: dict[str, Any],
        expected: np.ndarray[Any, Any],
        time_steps: int,
    ) -> None:
        carried = answer["parameters"]["sequence_steps"]
        (output,) = answer["outputs"]
        found = np.array(output["data"], "float32").reshape(output["shape"])
        off = float(np.abs(found - expected).max())
        with self._lock:
            self._totals.off = max(self._totals.off, off)
            self._totals.lost += carried < time_steps
            self._totals.doubled += carried > time_steps
        if carried != time_steps or off > TOLERANCE:
            raise Finding(
                f"step {step} of stream {stream}: carried {carried} time steps, and not"
                f" {time_steps}; its output is off by {off:.2g}"
            )


def replicas_by_kind() -> dict[str, list[int]]:
    """The ids of the processes of replicas and fronts, by the names that Ray gives them."""
    found: dict[str, list[int]] = {"replica": [], "front": []}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if command.startswith("ray::ServeReplica:rnnonnx:"):
            kind = "front" if ":front" in command else "replica"
            found[kind].append(int(place.name))
    return found


KINDS = {
    "ray::ServeReplica:rnnonnx:front": "fronts",
    "ray::ServeReplica:rnnonnx:model": "replicas",
    "ray::ProxyActor": "proxy",
    "redis-server": "Redis",
    "rnnonnx.cli": "the server",
    "ray::ServeController": "the rest of Ray",
}


def processor_time() -> Counter[str]:
    """Seconds of processor time so far, of all processes that serve, by what they are."""
    spent: Counter[str] = Counter()
    for place in Path("/proc").iterdir():
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
            user, system = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        except (OSError, ValueError):  # no process, or one that has ended
            continue
        kind = next((kind for name, kind in KINDS.items() if name in command), "")
        if not kind and ("raylet" in command or "gcs_server" in command):
            kind = "the rest of Ray"
        if kind:
            spent[kind] += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")  # type: ignore[assignment]
    return spent


def kill(kills: int, totals: Totals, over: threading.Event, seed: int) -> None:
    """Kill so many processes at random moments."""
    moments = random.Random(seed)  # noqa: S311
    while not over.is_set() and totals.killed.total() < kills:
        over.wait(moments.uniform(*BETWEEN))
        kind = "front" if totals.killed.total() % 6 == 5 else "replica"
        found = replicas_by_kind()[kind]
        if not found:
            continue
        os.kill(moments.choice(found), signal.SIGKILL)
        totals.killed[kind] += 1


@contextmanager
def serving(model: Path, url: str, replicas: int) -> Iterator[str]:
    """Start what serves; gives its address, and ends it."""
    command = [sys.executable, __file__, "--serve", str(model), url, str(replicas)]
    if url == LOCAL:
        command = [sys.executable, "-m", "rnnonnx.cli", "serve", "--model", f"lstm={model}"]
        command += ["--http-port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        timer = threading.Timer(STARTING, process.kill)
        timer.start()
        try:
            said = process.stdout.readline() if process.stdout else ""
            address = said.removeprefix("listening on ").partition(",")[0].strip()
            timer.cancel()
            if not address:
                log.seek(0)
                raise RuntimeError(f"nothing is served: {log.read()[-3000:]}")
            yield address
        finally:
            timer.cancel()
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def measure(arguments: argparse.Namespace, totals: Totals, stack: ExitStack) -> None:
    """Serve, step and kill.

    Raises:
        Finding: As `Clients.run`.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "model.onnx").write_bytes(lstm(UNITS, FEATURES))
    url = {"sqlite": str(folder / "states.db"), "none": "none"}.get(arguments.store)
    if arguments.engine == LOCAL:
        url = totals.store = LOCAL
    url = url or stack.enter_context(redis_server())
    address = stack.enter_context(serving(folder / "model.onnx", url, arguments.replicas))
    clients = Clients(address, folder / "model.onnx", totals)
    begin, before = time.monotonic(), processor_time()
    with ThreadPoolExecutor(arguments.streams) as threads:
        stepping = [threads.submit(clients.run, stream) for stream in range(arguments.streams)]
        try:
            kill(arguments.kills, totals, clients.over, arguments.seed)
            clients.over.wait(arguments.seconds)
            if not arguments.kills:
                after = processor_time()
                totals.cpu = {kind: after[kind] - before[kind] for kind in after}
        finally:
            clients.over.set()
        totals.seconds = time.monotonic() - begin
        totals.longest, totals.median = max(clients.spent), float(np.median(clients.spent))
        for future in stepping:
            future.result()


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", choices=["redis", "sqlite", "none"], default="redis")
    parser.add_argument("--engine", choices=["ray", LOCAL], default="ray", help="what serves")
    parser.add_argument("--kills", type=int, default=12, help="processes to kill (12)")
    parser.add_argument("--streams", type=int, default=8, help="streams (8)")
    parser.add_argument("--replicas", type=int, default=2, help="replicas (2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="after the last kill (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON")
    arguments = parser.parse_args()
    totals, finding = Totals(arguments.store, arguments.streams), ""
    with ExitStack() as stack:
        try:
            measure(arguments, totals, stack)
        except Finding as error:
            finding = str(error)
    if arguments.json:
        print(json.dumps({**vars(totals), "finding": finding}))
    else:
        show(totals, finding)
    return 1 if finding else 0


def show(totals: Totals, finding: str) -> None:
    kinds = ", ".join(f"{count} {kind}s" for kind, count in totals.killed.items()) or "nothing"
    print(f"{totals.store}: {totals.streams} streams, {kinds} killed in {totals.seconds:.1f} s")
    rate = totals.steps / totals.seconds
    print(f"{rate:.0f} steps a second; half of them took {totals.median * 1000:.0f} ms or less")
    if totals.cpu:
        spent = {kind: cpu / totals.steps * 1000 for kind, cpu in totals.cpu.items()}
        shares = ", ".join(f"{name} {ms:.2f}" for name, ms in spent.items())
        print(f"ms of processor time a step: {shares}; {sum(spent.values()):.2f} in all")
    print(
        f"{totals.steps} steps answered, {totals.asked_again} of them asked again by the client, "
        f"{totals.replayed} answered from the store; the longest took {totals.longest:.1f} s"
    )
    print(f"{totals.lost} lost, {totals.doubled} doubled, outputs off by {totals.off:.1g} at most")
    print(f"FOUND: {finding}" if finding else "all as in the uninterrupted run")


if __name__ == "__main__":
    sys.exit(main())
