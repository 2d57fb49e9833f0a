"""Our files beside every other way to run the same Keras model, on one thread.

Usage:
    python benchmarks/peers.py --quick              # a few small cells, for a first look
    python benchmarks/peers.py --minutes 24         # every cell, within about 24 minutes
    python benchmarks/peers.py --minutes 24 --write # and write docs/benchmarks.md and docs/img
    python benchmarks/peers.py --only "GRU 128" --batch 32     # some cells

Each peer runs in a process of its own, and the processes take turns: one at a time works, on one
thread. A peer's result is compared with Keras's before it is timed; a wrong one is not timed.
Peers that are not installed (`pip install --group peers`) are left out. With `--clock cpu`
processor time is measured instead of the clock's, for a machine that is busy otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from _measure import PAGE, machine, timing, write_section
from _peers.charts import draw
from _peers.onnxruntime_peer import SGEMM, SGEMM_FLOPS
from _peers.tables import (
    OURS,
    PURPOSES,
    Result,
    failures,
    grids,
    lost_table,
    summary,
    wanted,
)
from _peers.turns import Entry, Peer, PeerError, load_all, one_thread, take_turns
from _peers.work import QUICK, WHOLE, WORKS, Cell, cells, has_vowels

COMMAND = "python benchmarks/peers.py --minutes 24 --write"
PACKAGES = {
    "keras_peer": "tensorflow",
    "onnxruntime_peer": "onnxruntime",
    "openvino_peer": "openvino",
    "torch_peer": "torch",
    "litert_peer": "ai_edge_litert",
}
_TURN = 0.012  # seconds
_VERSIONS = (
    "onnxruntime",
    "tensorflow",
    "keras",
    "tf2onnx",
    "openvino",
    "torch",
    "ai-edge-litert",
    "numpy",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--minutes", type=float, default=24.0, help="about how long it may take")
    parser.add_argument("--quick", action="store_true", help="a few small cells")
    parser.add_argument("--only", help="works whose name begins with this")
    parser.add_argument("--batch", type=int, help="cells of this batch size")
    parser.add_argument("--peers", help="peers by name, with commas: keras,onnxruntime,openvino")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    arguments = parser.parse_args()
    wanted_cells = [
        cell
        for cell in cells(QUICK if arguments.quick else WHOLE)
        if cell.work.startswith(arguments.only or "") and arguments.batch in (None, cell.batch)
    ]
    begin = time.monotonic()
    with one_thread():
        results, skipped = measure(
            wanted_cells,
            _peers(arguments.peers),
            deadline=begin + 60 * (0.5 if arguments.quick else arguments.minutes),
            clock=arguments.clock,
        )
    took = time.monotonic() - begin
    text = report(results, skipped, seconds=took, clock=arguments.clock)
    print(f"\n{text}")
    if arguments.json:
        data = [asdict(result) for result in results]
        arguments.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    if arguments.write:
        folder = PAGE.parent / "img"
        pictures = "\n\n".join(f"![](img/{name})" for name in draw(results, folder))
        write_section("peers", f"{text}\n\n{pictures}")


def _peers(chosen: str | None) -> list[Peer]:
    """The peers that are installed, Keras first: the others need its files."""
    names = [f"{name}_peer" for name in chosen.split(",")] if chosen else list(PACKAGES)
    unknown = [name.removesuffix("_peer") for name in names if name not in PACKAGES]
    if unknown:
        known = ", ".join(name.removesuffix("_peer") for name in PACKAGES)
        raise SystemExit(f"no peer {', '.join(unknown)!r}; there are {known}")
    needed = ["keras_peer", "onnxruntime_peer"]
    order = [*needed, *(name for name in PACKAGES if name in names and name not in needed)]
    return [Peer(name) for name in order if find_spec(PACKAGES[name]) is not None]


def measure(
    wanted_cells: Sequence[Cell], peers: Sequence[Peer], *, deadline: float, clock: str
) -> tuple[list[Result], int]:
    """Measure cell by cell until the deadline; the results, and how many cells were left out."""
    results: list[Result] = []
    keras = peers[0]
    try:
        with tempfile.TemporaryDirectory() as name:
            for number, cell in enumerate(wanted_cells):
                left = deadline - time.monotonic()
                if left <= 0 and results:
                    return results, len(wanted_cells) - number
                folder = Path(name) / str(list(WORKS).index(cell.work))
                if not folder.exists():
                    folder.mkdir()
                    keras.ask("make", folder, cell.work, seconds=300.0)
                began = time.monotonic()
                entries = load_all(peers, folder, cell)
                loading = time.monotonic() - began
                needs = [_need(other) for other in wanted_cells[number:]]
                fair = needs[0] + max(0.0, left - sum(needs)) / len(needs)
                times = take_turns(
                    entries, seconds=max(0.2, fair - loading), turn=_TURN, clock=clock
                )
                results.append(_result(cell, entries, times))
                _tell(results[-1], number + 1, len(wanted_cells))
    except PeerError as error:
        raise SystemExit(f"Keras, which the others are compared with, failed: {error}") from error
    finally:
        for peer in peers:
            peer.stop()
    return results, 0


def _need(cell: Cell) -> float:
    """About the least seconds that a cell takes: loading, and four rounds of 14 times our time.

    At 90 GFLOP/s, about what one core of a server does.
    """
    work = (WORKS[cell.work].flops or 0) * cell.batch * cell.steps
    return 2.0 + 4 * 14 * work / 90e9


def _result(cell: Cell, entries: Sequence[Entry], times: dict[str, list[float]]) -> Result:
    reasons = {entry.name: entry.reason for entry in entries if entry.reason}
    flops = WORKS[cell.work].flops
    rates = times.pop(SGEMM, [])
    shares = {}
    if flops is not None and rates:
        work = flops * cell.batch * cell.steps
        for name, seconds in times.items():
            each = [one / other for one, other in zip(rates, seconds, strict=True)]
            shares[name] = sorted(each)[len(each) // 2] * work / SGEMM_FLOPS
    if OURS not in times:
        return Result(cell, {}, {}, OURS, reasons, shares)
    timings = {name: timing(each, times[OURS]) for name, each in times.items()}
    ours = [name for name in (OURS, *PURPOSES) if name in timings]
    form = min(ours, key=lambda name: timings[name].ratio)
    best = {name: timing(each, times[form]) for name, each in times.items()}
    return Result(cell, timings, best, form, reasons, shares)


def _tell(result: Result, number: int, count: int) -> None:
    parts = [f"{name} {timing.ratio:.2f}" for name, timing in result.timings.items()]
    print(f"[{number}/{count}] {result.title}: {', '.join(parts)}", file=sys.stderr, flush=True)


def report(results: Sequence[Result], skipped: int, *, seconds: float, clock: str) -> str:
    """The section of the page."""
    timed = " (processor time)" if clock == "cpu" else ""
    begin = (
        f"`{COMMAND}`: {len(results)} cells in {seconds / 60:.1f} minutes, 3 to 40 rounds by turns,"
        f" one thread{timed}. Every result was compared with Keras's before it was timed."
    )
    meaning = (
        "Times of others divided by ours, so that above 1 is slower than we are: those of the file"
        " that `export` writes by default, and those of the best one that `optimize=` gives for the"
        " cell. A peer is ahead if the median is below 0.97 and the ninetieth percentile below 1."
    )
    cell_by_cell = (
        "Times divided by that of the default file in the same round: median (tenth to ninetieth"
        " percentile). *Of sgemm* is the share of the rate at which ONNX Runtime multiplies two"
        " matrices of 512, measured in the same rounds. A dash is what does not run."
    )
    lines = [begin, machine(_VERSIONS)]
    if skipped:
        lines.append(f"{skipped} cells were left out for lack of time.")
    if not has_vowels():
        lines.append("Without the masked models: aeon, which ships their data, is not installed.")
    lines += [meaning, summary(results)]
    lines += ["#### One row against tf2onnx", wanted(results)]
    lines += ["#### Where a peer is ahead", lost_table(results)]
    lines += ["#### Every cell", cell_by_cell, grids(results)]
    lines += ["#### What does not run", failures(results)]
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
