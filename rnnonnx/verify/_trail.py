"""How errors go on from call to call and from step to step: the trail of one engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from .._parity_report import Growth, Kind

if TYPE_CHECKING:
    from .._parity import Array, Axes, Observation

HISTOGRAM_EDGES: Final = tuple(10.0**power for power in range(-10, 1))
"""Upper bounds of the bins of `Growth.histogram` after the first, which is for 0 exactly."""

MOST_UNITS: Final = 64
"""Columns of a heat map of a state; neighbouring units share one where there are more."""


@dataclass(slots=True)
class _Line:
    calls: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    histogram: Array = field(default_factory=lambda: np.zeros(len(HISTOGRAM_EDGES) + 2, np.int64))
    units: list[tuple[float, ...]] = field(default_factory=list)
    values: list[tuple[float, float]] = field(default_factory=list)
    offset: int = 0


class Trail:
    """Listens to a `Recorder`, and keeps what consecutive calls of each batch size had.

    Args:
        engine: The engine, for the report.
        axes: The names of the tensors' axes.
    """

    def __init__(self, engine: str, axes: Axes) -> None:
        self._engine = engine
        self._axes = axes
        self._lines: dict[tuple[Kind, str], _Line] = {}

    def __call__(self, seen: Observation) -> None:
        """Take in one comparison."""
        if seen.where.check:
            return  # other checks compare other calls
        line = self._lines.setdefault((seen.kind, seen.name), _Line())
        axes = self._axes[seen.kind, seen.name]
        if seen.where.call == 1:
            line.offset = 0
            line.units, line.values = [], []
        _put(line.calls, seen.where.call - 1, [float(seen.distance.max())])
        if "step" in axes:
            others = tuple(axis for axis, name in enumerate(axes) if name != "step")
            steps = seen.distance.max(axis=others)
            _put(line.steps, line.offset, steps.tolist())
            line.offset += len(steps)
        line.histogram += _counts(seen.distance)
        if seen.kind == "state":
            rows = axes.index("row") if "row" in axes else None
            line.units.append(_by_unit(seen.distance, rows))
            line.values.append((float(seen.want.min()), float(seen.want.max())))

    def growth(self) -> tuple[Growth, ...]:
        """What has been seen, outputs first."""
        ordered = sorted(self._lines.items(), key=lambda item: item[0][0] != "output")
        return tuple(
            Growth(
                engine=self._engine,
                kind=kind,
                name=name,
                by_call=tuple(line.calls),
                by_step=tuple(line.steps),
                histogram=tuple(int(count) for count in line.histogram),
                units=tuple(line.units),
                values=tuple(line.values),
            )
            for (kind, name), line in ordered
        )


def _put(series: list[float], begin: int, values: list[float]) -> None:
    """Keep the larger of what is there and what comes, from a position on."""
    series += [0.0] * (begin + len(values) - len(series))
    for index, value in enumerate(values, start=begin):
        series[index] = max(series[index], value)


def _counts(distance: Array) -> Array:
    zeros = int((distance == 0).sum())
    bins = np.searchsorted(HISTOGRAM_EDGES, distance[distance > 0], side="right")
    counts = np.bincount(bins.ravel(), minlength=len(HISTOGRAM_EDGES) + 1)
    return np.concatenate([[zeros], counts])


def _by_unit(distance: Array, rows: int | None) -> tuple[float, ...]:
    flat = (distance if rows is None else distance.max(axis=rows)).ravel()
    groups = np.array_split(flat, min(MOST_UNITS, len(flat)))
    return tuple(float(group.max()) for group in groups)
