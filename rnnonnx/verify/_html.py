"""The report as one HTML page that needs nothing else: tables, and charts as inline SVG.

Needs the extra `report` (jinja2).
"""

from __future__ import annotations

import datetime
import math
from importlib import resources
from typing import TYPE_CHECKING, Any

from .._extras import require
from .._files import replace_file
from ..errors import InputError
from ._charts import STYLES, heat_map, histogram_chart, line_chart

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from .._parity_report import Growth, ParityReport
    from ._charts import Points

TEMPLATE = "report.html.j2"
_MOST_POINTS = 400


def require_html() -> Any:
    """The package jinja2.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("jinja2", extra="report", purpose="writing an HTML report")


def write_html(report: ParityReport, path: str | os.PathLike[str]) -> None:
    """Write a report as one HTML page, for a phone as for a large screen, light or dark.

    Args:
        report: What `verify` gave.
        path: The file; it is written whole or not at all.

    Raises:
        MissingExtraError: The extra `report` is not installed.
        InputError: The file cannot be written there.
    """
    content = render_html(report).encode()
    replace_file(path, content, what="the HTML report", error=InputError)


def render_html(report: ParityReport) -> str:
    """The page as text.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    jinja2 = require_html()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"error": _error, "plain": _plain, "dims": _dims}
    # the charts are ours, and escape what is not
    chart = environment.filters["safe"]
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    ran = [engine.name for engine in report.engines if not engine.not_run]
    colours = {name: index for index, name in enumerate(name for name in ran if name != "keras")}
    page: str = environment.from_string(text).render(
        report=report,
        colours=colours,
        styles=STYLES,
        made=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        over_time=[(title, chart(svg)) for title, svg in _over_time(report, colours)],
        histograms=[(name, chart(svg)) for name, svg in _histograms(report, colours)],
        heat_maps=[
            (engine, [(name, chart(svg)) for name, svg in maps])
            for engine, maps in _heat_maps(report, colours)
        ],
        drifts=[(title, chart(svg)) for title, svg in _drifts(report, colours)],
        widths={layer.layer: _width(layer.max_rel, report.tolerance) for layer in report.layers},
    )
    return page


def _over_time(report: ParityReport, colours: dict[str, int]) -> Iterable[tuple[str, str]]:
    """The worst output and the worst state of every engine, over steps and calls."""
    outputs = [line for line in report.growth if line.kind == "output"]
    states = [line for line in report.growth if line.kind == "state"]
    charts = [
        ("Outputs, step by step", outputs, "by_step"),
        ("Outputs, call by call", outputs, "by_call"),
        ("States, call by call", states, "by_call"),
    ]
    for title, lines, what in charts:
        every = {name: _worst(lines, name, what) for name in colours}
        series = {name: points for name, points in every.items() if points}
        if series:
            label = what.removeprefix("by_")
            yield (
                title,
                line_chart(series, tolerance=report.tolerance, x_label=label, colours=colours),
            )


def _worst(lines: list[Growth], engine: str, what: str) -> Points:
    """The largest error of any tensor of an engine; steps count from 0, calls from 1."""
    every = [getattr(line, what) for line in lines if line.engine == engine]
    worst = [
        max(line[index] for line in every if index < len(line))
        for index in range(max(map(len, every), default=0))
    ]
    # what no screen could show apart: the largest of neighbours
    width = math.ceil(len(worst) / _MOST_POINTS) or 1
    return [
        (begin + (what == "by_call"), max(worst[begin : begin + width]))
        for begin in range(0, len(worst), width)
    ]


def _histograms(report: ParityReport, colours: dict[str, int]) -> Iterable[tuple[str, str]]:
    for engine, colour in colours.items():
        counts = [line.histogram for line in report.growth if line.engine == engine]
        if counts:
            total = [sum(column) for column in zip(*counts, strict=True)]
            yield (
                engine,
                histogram_chart(total, colour=colour, tolerance=report.tolerance, label=engine),
            )


def _heat_maps(
    report: ParityReport, colours: dict[str, int]
) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    departs = {engine.name for engine in report.engines if engine.ok is False}
    for engine in colours:
        if departs and engine not in departs:
            continue
        maps = [
            (line.name, heat_map(line.units, tolerance=report.tolerance, label=line.name))
            for line in report.growth
            if line.engine == engine and line.units
        ]
        if maps:
            yield engine, maps
            if not departs:
                return  # engines that agree look alike


def _drifts(report: ParityReport, colours: dict[str, int]) -> Iterable[tuple[str, str]]:
    for kind in ("output", "state"):
        series: dict[str, dict[int, float]] = {}
        for line in report.drift:
            if line.kind == kind:
                points = series.setdefault(line.engine, {})
                for step, error in line.curve:
                    points[step] = max(points.get(step, 0.0), error)
        if series:
            steps = report.drift[0].steps
            yield (
                f"{kind.capitalize()}s over {steps:,} steps",
                line_chart(
                    {name: sorted(points.items()) for name, points in series.items()},
                    tolerance=report.tolerance,
                    x_label="step",
                    colours=colours,
                ),
            )


def _width(error: float, tolerance: float) -> float:
    """The length of a layer's bar in percent: from 1e-9 to a hundred times the tolerance."""
    if error <= 0:
        return 0.0
    if not math.isfinite(error):
        return 100.0
    low, high = -9.0, math.log10(max(tolerance, 1e-8)) + 2
    return round(100 * min(max((math.log10(error) - low) / (high - low), 0.01), 1.0), 1)


def _error(value: float) -> str:
    return _short(f"{value:.1e}") if value else "0"


def _plain(value: float) -> str:
    return _short(f"{value:g}")


def _short(number: str) -> str:
    return number.replace("e-0", "e-").replace("e+0", "e+")


def _dims(shape: Iterable[int]) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape)) or "scalar"
