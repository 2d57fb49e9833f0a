"""Charts as SVG for the HTML report: they take their colours from the page, light or dark.

Errors are on a logarithmic axis. What is exactly 0 has no logarithm, and lies on the floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, TypeAlias

from ._trail import HISTOGRAM_EDGES

Points: TypeAlias = Sequence[tuple[float, float]]

# A phone is some 360 units wide, so that text has its real size there.
_WIDTH: Final = 360
_HEIGHT: Final = 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 10, 34
_FLOOR: Final = 1e-12
_MOST_ROWS: Final = 40

STYLES: Final = 6
"""Colours, dashes and marks of lines that the page has; further engines begin again."""

# A mark for every style, around (0, 0): a line is told by more than its colour.
_MARKS: Final = (
    "M-2.4,0a2.4,2.4 0 1,0 4.8,0a2.4,2.4 0 1,0 -4.8,0Z",  # a disc
    "M-2.3,-2.3H2.3V2.3H-2.3Z",  # a square
    "M0,-3.1L3,2.3H-3Z",  # a triangle
    "M0,-3.3L2.7,0L0,3.3L-2.7,0Z",  # a diamond
    "M0,3.1L3,-2.3H-3Z",  # a triangle upside down
    "M-1,-3H1V-1H3V1H1V3H-1V1H-3V-1H-1Z",  # a cross
)
_MOST_MARKS: Final = 24
_FEW_MARKS: Final = 6


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the axes of a chart lie: x linear, y the logarithm of errors."""

    x_low: float
    x_high: float
    low: int
    high: int

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.x_low) / span

    def y(self, error: float) -> float:
        exponent = math.log10(max(error, _FLOOR)) if math.isfinite(error) else math.inf
        exponent = min(max(exponent, self.low), self.high)
        share = (exponent - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def line_chart(
    series: Mapping[str, Points], *, tolerance: float, x_label: str, colours: Mapping[str, int]
) -> str:
    """Errors over steps or calls, a line each.

    Args:
        series: `(x, error)` by what the line is called.
        tolerance: Drawn as a dashed line.
        x_label: What x is.
        colours: The number of each line's colour.
    """
    points = [point for line in series.values() for point in line]
    frame = _frame(points, tolerance)
    parts = [*_grid(frame), *_x_axis(frame, x_label), _tolerance(frame, tolerance)]
    for name, line in series.items():
        places = [(frame.x(x), frame.y(error)) for x, error in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        number = colours[name] % STYLES
        parts.append(f'<polyline class="line s{number}" points="{path}"/>')
        # of a long line some points, each line others, so that those that coincide are seen
        every = 1 if len(places) <= _MOST_MARKS else max(1, len(places) // _FEW_MARKS)
        first = number * every // STYLES
        parts += [
            f'<path class="dot s{number}" transform="translate({x:.1f},{y:.1f})" '
            f'd="{_MARKS[number]}">'
            f"<title>{escape(name)}: {error:.2e} at {value:g}</title></path>"
            for (x, y), (value, error) in list(zip(places, line, strict=True))[first::every]
        ]
    worst = max((error for _, error in points), default=0.0)
    return _svg(parts, f"errors of {', '.join(series)} over {x_label}; the largest {worst:.2e}")


def histogram_chart(counts: Sequence[int], *, colour: int, tolerance: float, label: str) -> str:
    """How many values have an error of each size: exactly 0, then a bar a decade."""
    total = sum(counts) or 1
    width = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    height = _HEIGHT - _TOP - _BOTTOM
    most = max(counts) or 1
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + height * (1 - share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_label(_LEFT - 5, y + 3.5, f"{100 * share * most / total:.0f} %", "end"))
    powers = [round(math.log10(edge)) for edge in HISTOGRAM_EDGES]
    for index, count in enumerate(counts):
        x, tall = _LEFT + index * width, height * count / most
        name = _bin(index, powers)
        parts.append(
            f'<rect class="bar s{colour % STYLES}" x="{x + 1:.1f}" y="{_TOP + height - tall:.1f}" '
            f'width="{width - 2:.1f}" height="{tall:.1f}"><title>{name}: {count} values'
            "</title></rect>"
        )
    parts.append(_label(_LEFT + width / 2, _HEIGHT - _BOTTOM + 13, "0", "middle"))
    for index, power in enumerate(powers):
        if power % 2 == 0:  # the bound between two bars
            x = _LEFT + (index + 2) * width
            parts.append(_power(x, _HEIGHT - _BOTTOM + 13, power, "middle"))
    if HISTOGRAM_EDGES[0] <= tolerance <= HISTOGRAM_EDGES[-1]:
        x = _LEFT + width * (2 + math.log10(tolerance) - powers[0])
        parts.append(
            f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + height}"/>'
        )
    parts.append(_label(_WIDTH / 2 + 20, _HEIGHT - 5, "absolute error", "middle"))
    return _svg(parts, f"histogram of the errors of {label}")


def _bin(index: int, powers: Sequence[int]) -> str:
    if index == 0:
        return "exactly 0"
    if index == 1:
        return f"below 1e{powers[0]}"
    if index > len(powers):
        return f"1e{powers[-1]} and more"
    return f"1e{powers[index - 2]} to 1e{powers[index - 1]}"


def heat_map(units: Sequence[Sequence[float]], *, tolerance: float, label: str) -> str:
    """The error of a state: a row a call (neighbours together if there are many), a column a unit.

    Shades go from the floor of float32's rounding (1e-9) to the tolerance; what is beyond
    is marked in another colour.
    """
    columns = max(len(row) for row in units)
    together = math.ceil(len(units) / _MOST_ROWS)
    rows = [
        (begin + 1, [max(column) for column in zip(*units[begin : begin + together], strict=True)])
        for begin in range(0, len(units), together)
    ]
    width = (_WIDTH - _LEFT - _RIGHT) / columns
    tall = min(18.0, 150 / len(rows))
    parts = []
    for number, (call, row) in enumerate(rows):
        y = number * tall
        if len(rows) <= 12 or number % (len(rows) // 8) == 0:
            parts.append(_label(_LEFT - 5, y + tall / 2 + 3.5, f"{call}", "end"))
        for unit, error in enumerate(row):
            shade = _shade(error, tolerance)
            beyond = " beyond" if not error <= tolerance else ""
            parts.append(
                f'<rect class="cell{beyond}" x="{_LEFT + unit * width:.2f}" y="{y:.2f}" '
                f'width="{width + 0.1:.2f}" height="{tall - 1:.2f}" fill-opacity="{shade:.2f}">'
                f"<title>call {call}, unit {unit}: {error:.2e}</title></rect>"
            )
    bottom = len(rows) * tall
    parts.append(_label(_WIDTH / 2 + 20, bottom + 13, f"units of {label}", "middle"))
    parts.append(_label(4, bottom + 13, "call", "start"))
    return _svg(parts, f"errors of the state {label} by call and unit", height=bottom + 20)


def _shade(error: float, tolerance: float) -> float:
    if error <= 0:
        return 0.04
    if not math.isfinite(error):
        return 1.0
    low, high = math.log10(min(1e-9, tolerance / 10)), math.log10(tolerance or _FLOOR)
    share = (math.log10(max(error, _FLOOR)) - low) / ((high - low) or 1.0)
    return 0.1 + 0.9 * min(max(share, 0.0), 1.0)


def _frame(points: Points, tolerance: float) -> _Frame:
    xs = [x for x, _ in points] or [0.0]
    errors = [e for _, e in points if e > 0 and math.isfinite(e)] + [max(tolerance, _FLOOR)]
    low = max(math.floor(math.log10(max(min(errors), _FLOOR)) - 0.3), -12)
    high = max(math.ceil(math.log10(max(errors)) + 0.05), low + 2)
    # steps are counted from 0, calls from 1
    return _Frame(1.0 if min(xs) == 1 else 0.0, max(xs), low, high)


def _grid(frame: _Frame) -> list[str]:
    parts = []
    every = max(1, math.ceil((frame.high - frame.low) / 6))
    for power in range(frame.low, frame.high + 1, every):
        y = frame.y(10.0**power)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_power(_LEFT - 5, y + 3.5, power, "end"))
    return parts


def _x_axis(frame: _Frame, label: str) -> list[str]:
    ticks = _ticks(frame.x_low, frame.x_high)
    y = _HEIGHT - _BOTTOM + 13
    parts = [_label(frame.x(x), y, f"{x:,.0f}", "middle") for x in ticks]
    return [*parts, _label(_WIDTH / 2 + 20, _HEIGHT - 5, label, "middle")]


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / 5
    base = 10.0 ** math.floor(math.log10(raw))
    step = max(next(base * m for m in (1, 2, 5, 10) if base * m >= raw), 1.0)
    first = math.ceil(low / step) * step
    return [first + i * step for i in range(int((high - first) / step + 0.02) + 1)]


def _tolerance(frame: _Frame, tolerance: float) -> str:
    y = frame.y(tolerance)
    return (
        f'<line class="bound" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
        f"<title>tolerance {tolerance:g}</title></line>"
    )


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _power(x: float, y: float, power: int, anchor: str) -> str:
    sign = "\N{MINUS SIGN}" if power < 0 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">10<tspan dy="-4" class="power">'
        f"{sign}{abs(power)}</tspan></text>"
    )


def _svg(parts: Sequence[str], title: str, *, height: float = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
