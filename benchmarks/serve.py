"""Requests a second through `rnnonnx serve`, beside the pool in process and Triton.

Usage:
    python benchmarks/serve.py                      # 1, 16 and 256 streams, LSTM 64
    python benchmarks/serve.py --streams 16 --units 256 --rounds 5 --seconds 2
    python benchmarks/serve.py --write              # the table goes to docs/benchmarks.md

Every stream sends a step, waits for the answer, and sends the next: as many requests are under way
as there are streams. The clients are tritonclient's, for asyncio, in a process of their own; the
servers are in processes of their own. The pool in process is called by the same loop without any
server between. All take turns, round after round. Triton is measured where `make test-engines`
has installed it, with the repository that `rnnonnx triton --backend python` writes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _graphs import lstm
from _measure import machine, markdown, write_section
from _triton_server import find_triton, triton
from rich.console import Console

from rnnonnx.triton import Sequences, write_repository

FEATURES = 64
MODEL = "lstm"
COMMAND = "python benchmarks/serve.py --write"
POOL = "`StreamPool.arun`, in process"
WARM = 0.3  # seconds of each turn that are not counted

Ask = Callable[..., Awaitable[Any]]
"""Steps a stream, by its number and `starts=`: whether it begins."""


@dataclass(frozen=True)
class Turn:
    """What one turn gave.

    Attributes:
        rate: Requests a second.
        p50: Median time of a request, in milliseconds.
        p99: The 99th percentile.
    """

    rate: float
    p50: float
    p99: float


async def drive(ask: Ask, streams: int, seconds: float) -> Turn:
    """Step streams in a closed loop; what is counted begins after a moment."""
    begin = time.perf_counter() + WARM
    end = begin + seconds
    times: list[float] = []

    async def one(number: int) -> None:
        await ask(number, starts=True)
        while (sent := time.perf_counter()) < end:
            await ask(number, starts=False)
            if sent >= begin:
                times.append(time.perf_counter() - sent)

    await asyncio.gather(*(one(number) for number in range(1, streams + 1)))
    times.sort()
    milliseconds = [1000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.99)]
    return Turn(len(times) / seconds, *milliseconds)


async def through_pool(path: str, streams: int, seconds: float) -> Turn:
    """The pool itself."""
    from rnnonnx.runtime import StreamPool

    feed = {"x": frame()}
    with StreamPool(path, capacity=streams) as pool:
        open_streams = {}

        async def ask(number: int, *, starts: bool) -> None:
            if starts:
                open_streams[number] = await pool.aopen(str(number))
            await open_streams[number].arun(None, feed)

        return await drive(ask, streams, seconds)


async def through_client(kind: str, address: str, streams: int, seconds: float) -> Turn:
    """A server, by tritonclient over HTTP with binary tensors, or over gRPC."""
    if kind == "HTTP":
        import tritonclient.http.aio as protocol

        options: dict[str, Any] = {"conn_limit": streams}
    else:
        import tritonclient.grpc.aio as protocol

        options = {}
    x = frame()
    given = protocol.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x)
    async with protocol.InferenceServerClient(address, **options) as client:

        async def ask(number: int, *, starts: bool) -> None:
            await client.infer(MODEL, [given], sequence_id=number, sequence_start=starts)

        turn = await drive(ask, streams, seconds)
        for number in range(1, streams + 1):
            await client.infer(MODEL, [given], sequence_id=number, sequence_end=True)
        return turn


def frame() -> np.ndarray[Any, np.dtype[np.float32]]:
    """One time step of one stream."""
    return np.ones((1, 1, FEATURES), np.float32)


def one_turn(kind: str, address: str, streams: int, seconds: float) -> Turn:
    """A turn in a process of its own."""
    command = [sys.executable, __file__, "--turn", kind, address, str(streams), str(seconds)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 + 4 * seconds, check=False
    )
    if done.returncode:
        raise SystemExit(f"{kind} at {address} failed:\n{done.stderr}")
    return Turn(**json.loads(done.stdout))


@contextlib.contextmanager
def rnnonnx_serve(path: Path) -> Iterator[dict[str, str]]:
    """`rnnonnx serve` in a process of its own; its addresses by protocol."""
    command = [sys.executable, "-m", "rnnonnx.cli", "serve", str(path), "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("rnnonnx serve did not start")
        addresses = json.loads(line)
        http = addresses["http"].removeprefix("http://")
        yield {"HTTP": http, "gRPC": addresses["grpc"]}
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    if sys.argv[1:2] == ["--turn"]:
        kind, address, streams, seconds = sys.argv[2:]
        go = (
            through_pool(address, int(streams), float(seconds))
            if kind == "pool"
            else (through_client(kind, address, int(streams), float(seconds)))
        )
        print(json.dumps(vars(asyncio.run(go))))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a turn takes")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    text = measure(arguments.streams, arguments.units, arguments.rounds, arguments.seconds)
    print(text)
    if arguments.write:
        write_section("serve", text)


def measure(streams: list[int], units: int, rounds: int, seconds: float) -> str:
    """The section of the page."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / f"{MODEL}.onnx"
        path.write_bytes(lstm(units, FEATURES))
        ways = {POOL: ("pool", str(path))}
        own = stack.enter_context(rnnonnx_serve(path))
        ways |= {f"`rnnonnx serve`, {kind}": (kind, address) for kind, address in own.items()}
        if find_triton() is not None:
            write_repository(
                path,
                folder / "repository",
                backend="python",
                max_batch=256,
                sequences=Sequences(capacity=max(streams)),
            )
            addresses = stack.enter_context(triton(folder / "repository", folder))
            for kind, address in zip(("HTTP", "gRPC"), addresses, strict=True):
                ways[f"Triton, {kind}"] = (kind, address)
        turns: dict[tuple[int, str], list[Turn]] = {}
        console = Console(stderr=True)
        for number in range(rounds):
            for count in streams:
                for name, (kind, address) in ways.items():
                    turn = one_turn(kind, address, count, seconds)
                    turns.setdefault((count, name), []).append(turn)
            console.print(f"round {number + 1} of {rounds}")
    rows = []
    for (count, name), mine in turns.items():
        ratios = sorted(
            one.rate / other.rate for one, other in zip(mine, turns[count, POOL], strict=True)
        )
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        middle = [
            statistics.median(getattr(turn, part) for turn in mine)
            for part in ("rate", "p50", "p99")
        ]
        rate, p50, p99 = middle
        rows.append(
            [
                str(count),
                name,
                "1" if name == POOL else spread,
                f"{rate:,.0f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
            ]
        )
    header = ["Streams", "Way", "Rate / the pool's", "Requests a second", "p50, ms", "p99, ms"]
    begin = (
        f"`{COMMAND}`: LSTM {units}, one time step a request, {rounds} rounds by turns. Clients"
        f" and servers share {os.cpu_count()} cores, and a client in Python takes most of one."
    )
    versions = ("onnxruntime", "uvicorn", "starlette", "grpcio", "tritonclient", "numpy")
    return "\n\n".join([begin, machine(versions), markdown(header, rows)])


if __name__ == "__main__":
    main()
