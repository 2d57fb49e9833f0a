"""The demo's picture: forecast and truth, the state over time, the error over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx._extras import require

from ._demo_model import HORIZON

if TYPE_CHECKING:
    from pathlib import Path

    from ._demo_model import Series
    from ._demo_stream import Streamed

_TRUTH: Final = "#222222"
_FORECAST: Final = "#d1495b"
_OTHER: Final = "#2e6f95"
_TOLERANCE: Final = 1e-5
_WEEKS_A_YEAR: Final = 52.18
_YEARS_OF_STATE: Final = 8  # enough to see the season, few enough to see the weeks


def plot(series: Series, streamed: Streamed, rates: dict[str, float], path: Path) -> None:
    """Draw the picture and write it as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="plot", purpose="the demo's picture")
    matplotlib.use("Agg")  # no window, also where there is a screen
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(12, 11), height_ratios=[3, 2.4, 1.6], layout="constrained"
    )
    _draw_forecast(top, series, streamed)
    _draw_state(figure, middle, series, streamed)
    _draw_error(bottom, series, streamed)
    for axes in (top, bottom):
        axes.set_xlim(series.dates[0], series.dates[-1])
    (_, fastest), *others = rates.items()
    ratios = ", ".join(f"{fastest / rate:.0f} x {name}" for name, rate in others)
    figure.suptitle(
        f"A Keras GRU streamed on ONNX Runtime, one week at a time\n"
        f"{fastest:,.0f} steps/s on this machine's CPU: {ratios}",
        fontsize=13,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_forecast(axes: Any, series: Series, streamed: Streamed) -> None:
    forecast = series.forecast(streamed.outputs)
    # A forecast made in week t is for week t + HORIZON; the last ones have no truth yet.
    weeks = series.dates[HORIZON:]
    axes.plot(series.dates, series.ppm, color=_TRUTH, lw=1.1, label="measured")
    axes.plot(
        weeks, forecast[:-HORIZON], color=_FORECAST, lw=0.9, label=f"forecast {HORIZON} weeks ahead"
    )
    split = series.dates[series.split]
    axes.axvspan(split, series.dates[-1], color=_OTHER, alpha=0.08, lw=0)
    axes.text(
        split, 0.95, "  not seen in training", transform=axes.get_xaxis_transform(), color=_OTHER
    )
    axes.set_ylabel("CO2 (ppm)")
    axes.set_title("Forecast against truth: weekly CO2, Mauna Loa", loc="left")
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.25)

    window = slice(len(series.ppm) - 3 * 52, None)  # three years, close enough to see both
    inset = axes.inset_axes((0.6, 0.05, 0.385, 0.33))
    inset.plot(series.dates[window], series.ppm[window], color=_TRUTH, lw=1.2)
    inset.plot(weeks[-3 * 52 :], forecast[:-HORIZON][-3 * 52 :], color=_FORECAST, lw=1.2)
    inset.margins(y=0.28)
    inset.text(0.03, 0.05, "the last three years", fontsize=9, transform=inset.transAxes)
    inset.set_xticks([])
    inset.tick_params(labelsize=8)


def _draw_state(figure: Any, axes: Any, series: Series, streamed: Streamed) -> None:
    from matplotlib.dates import date2num

    states = streamed.states.T  # [units, weeks]
    # Units that swing alike stand together: by the phase of their yearly cycle.
    spectrum = np.fft.rfft(states - states.mean(axis=1, keepdims=True), axis=1)
    order = np.argsort(np.angle(spectrum[:, round(states.shape[1] / _WEEKS_A_YEAR)]))
    shown = round(_YEARS_OF_STATE * _WEEKS_A_YEAR)
    first, last = date2num(series.dates[[-shown, -1]])
    image = axes.imshow(
        states[order, -shown:],
        aspect="auto",
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        interpolation="nearest",
        extent=(first, last, states.shape[0], 0),
    )
    axes.xaxis_date()
    axes.set_ylabel("unit, by yearly phase")
    axes.set_title(
        f"The GRU's state as the runtime carries it: state_out.gru.h after each week,"
        f" the last {_YEARS_OF_STATE} years",
        loc="left",
    )
    figure.colorbar(image, ax=axes, pad=0.01, label="h")


def _draw_error(axes: Any, series: Series, streamed: Streamed) -> None:
    for errors, color, label in (
        (streamed.state_errors, _OTHER, "state (largest of its units)"),
        (streamed.output_errors, _FORECAST, "output"),
    ):
        # A difference of exactly zero has no place on a log axis: a gap, not a point.
        shown = np.where(errors > 0, errors, np.nan)
        axes.plot(series.dates, shown, ".", ms=2.5, color=color, label=label)
    axes.axhline(_TOLERANCE, color=_TRUTH, lw=1, ls="--")
    axes.text(series.dates[20], _TOLERANCE * 1.3, "tolerance 1e-5", fontsize=9, va="bottom")
    axes.set_yscale("log")
    axes.set_ylim(1e-9, 1e-4)
    axes.set_ylabel("|runtime - Keras|")
    axes.set_title(
        f"Difference from Keras over {len(series.ppm):,} consecutive steps:"
        f" at most {streamed.max_error:.1e}",
        loc="left",
    )
    axes.legend(loc="lower right", frameon=True, ncols=2, markerscale=3)
    axes.grid(alpha=0.25)
