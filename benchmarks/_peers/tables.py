"""The results as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from _measure import Timing, markdown

from .work import GATES, WORKS, Cell

OURS = "rnnonnx"
PURPOSES = ("rnnonnx, latency", "rnnonnx, throughput")
FILES = ("tf2onnx", "Keras export")
OTHERS = (
    "Keras predict_on_batch",
    "Keras tf.function",
    "Keras tf.function, XLA",
    "OpenVINO",
    "PyTorch",
    "PyTorch, compiled",
    "LiteRT",
)
_NOISE = 0.97  # a median below it, and the ninetieth percentile below 1: the peer is ahead
GROUPS = (*GATES, "Masked", "Other layers", "Models")


@dataclass(frozen=True)
class Result:
    """What was measured in a cell.

    Attributes:
        cell: The cell.
        timings: Each contestant that ran, as a ratio to the default file.
        best: The same as ratios to the fastest of our files, by the median.
        best_form: Which of our files that is.
        reasons: Why another one did not run.
        shares: Operations a second of each contestant, divided by sgemm's; empty where the
            model is more than products.
    """

    cell: Cell
    timings: dict[str, Timing]
    best: dict[str, Timing]
    best_form: str
    reasons: dict[str, str]
    shares: dict[str, float]

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{WORKS[self.cell.work].title}, batch {self.cell.batch}, {self.steps}"

    @property
    def steps(self) -> str:
        """How many steps, in words."""
        if WORKS[self.cell.work].data == "vowels":
            return "7 to 29 steps"
        return f"{self.cell.steps} step" + "s" * (self.cell.steps != 1)


def grids(results: Sequence[Result]) -> str:
    """Every cell, a table a group."""
    parts = []
    for group in GROUPS:
        mine = [r for r in results if WORKS[r.cell.work].group == group]
        mine.sort(key=lambda r: list(WORKS).index(r.cell.work))
        if mine:
            table = markdown(*_grid(mine))
            parts.append(f"<details>\n<summary>{group}</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def _grid(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    names = [
        name
        for name in (*PURPOSES, *FILES, *OTHERS)
        if any(name in r.timings or name in r.reasons for r in results)
    ]
    header = ["Work", "Batch", "Steps", "rnnonnx, µs", "of sgemm", *names]
    rows = []
    for r in results:
        share = f"{r.shares[OURS]:.0%}" if OURS in r.shares else ""
        row = [WORKS[r.cell.work].title, str(r.cell.batch), r.steps.split(" step")[0]]
        if OURS not in r.timings:
            rows.append([*row, r.reasons.get(OURS, "not run"), "", *[""] * len(names)])
            continue
        row += [f"{r.timings[OURS].seconds * 1e6:.1f}", share]
        rows.append([*row, *(str(r.timings[n]) if n in r.timings else _dash(r, n) for n in names)])
    return header, rows


def _dash(result: Result, name: str) -> str:
    return "-" if name in result.reasons else ""


def failures(results: Sequence[Result]) -> str:
    """What does not run, and why: each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for r in results:
        for name, reason in r.reasons.items():
            titles = found.setdefault((name, reason), [])
            title = WORKS[r.cell.work].title
            if title not in titles:
                titles.append(title)
    rows = [
        [name, "; ".join(titles), reason.replace("|", "\\|")]
        for (name, reason), titles in found.items()
    ]
    return markdown(["Peer", "Work", "Does not run: why"], rows) if rows else "All of them ran."


def summary(results: Sequence[Result]) -> str:
    """How the default file and the best one stand, group by group."""
    header = ["Work", "Our file", "Cells", "Least", "Median", "Most", "Peer ahead in"]
    rows = []
    for group in GROUPS:
        mine = [r for r in results if WORKS[r.cell.work].group == group and OURS in r.timings]
        for against, names, ratios in (
            ("default, against the files of tf2onnx and Keras", FILES, [r.timings for r in mine]),
            ("best, against those files", FILES, [r.best for r in mine]),
            ("best, against the best of the others", OTHERS, [r.best for r in mine]),
        ):
            best = [b for b in (_best(timings, names) for timings in ratios) if b]
            if best:
                medians = sorted(timing.ratio for _, timing in best)
                middle = medians[len(medians) // 2]
                behind = sum(_ahead(timing) for _, timing in best)
                numbers = [f"{v:.2f}" for v in (medians[0], middle, medians[-1])]
                rows.append([group, against, str(len(best)), *numbers, str(behind)])
    return markdown(header, rows)


def lost(results: Sequence[Result]) -> list[tuple[Result, str, Timing]]:
    """Cells where a peer is ahead of our best file beyond noise: the peer and its ratio."""
    found = []
    for r in results:
        best = _best(r.best, (*FILES, *OTHERS))
        if best is not None and _ahead(best[1]):
            found.append((r, *best))
    return found


def lost_table(results: Sequence[Result]) -> str:
    """Those as a table."""
    rows = [[r.title, r.best_form, name, str(timing)] for r, name, timing in lost(results)]
    if not rows:
        return "None."
    return markdown(["Cell", "Our file", "Peer", "Its time divided by ours"], rows)


def wanted(results: Sequence[Result]) -> str:
    """One row and many steps: the time of tf2onnx's file divided by ours."""
    rows = []
    for r in results:
        longest = max(steps for _, steps in WORKS[r.cell.work].shapes)
        if r.cell.batch == 1 and r.cell.steps == longest and "tf2onnx" in r.timings:
            rows.append([r.title, str(r.timings["tf2onnx"])])
    return markdown(["One row", "tf2onnx's time divided by ours"], rows)


def _best(timings: dict[str, Timing], names: Sequence[str]) -> tuple[str, Timing] | None:
    found = [(name, timings[name]) for name in names if name in timings]
    return min(found, key=lambda item: item[1].ratio, default=None)


def _ahead(timing: Timing) -> bool:
    return timing.ratio < _NOISE and timing.high < 1.0
