"""Timing contestants side by side, and the page that holds the results."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Timing:
    """One contestant's time for a unit of work, and its ratio to the reference.

    Attributes:
        seconds: Median over the rounds.
        ratio: Median over the rounds of its time divided by the reference's in the same round.
        low: The tenth percentile of that.
        high: The ninetieth.
    """

    seconds: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def side_by_side(
    contestants: Mapping[str, Callable[[], Any]], reference: str, *, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time contestants by turns in one process.

    Args:
        contestants: Each does one unit of work when called.
        reference: The one that ratios are taken of.
        rounds: How often each has its turn; the first contestant changes from round to round.
        seconds: About how long a turn takes.
    """
    calls = {name: _calls(work, seconds) for name, work in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            work = contestants[name]
            work()
            begin = time.perf_counter()
            for _ in range(calls[name]):
                work()
            times[name].append((time.perf_counter() - begin) / calls[name])
    return {name: timing(times[name], times[reference]) for name in names}


def machine(packages: Sequence[str]) -> str:
    """The machine and the versions, in a line."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}; {', '.join(found)}"
    )


def write_section(name: str, text: str, path: Path = PAGE) -> None:
    """Replace the part of the page between this section's marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    page = path.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _calls(work: Callable[[], Any], seconds: float) -> int:
    work()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds / 2:
        work()
        done += 1
    return max(1, 2 * done)


def timing(mine: list[float], reference: list[float]) -> Timing:
    """A contestant's times and the reference's, round by round."""
    ratios = sorted(a / b for a, b in zip(mine, reference, strict=True))
    tenth = len(ratios) // 10
    return Timing(
        statistics.median(mine), statistics.median(ratios), ratios[tenth], ratios[-1 - tenth]
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
