"""`rnnonnx demo`: train, export, stream and compare, on a series that a package ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rnnonnx._extras import require
from rnnonnx.errors import ParityError

from ._console import human_size, note, print_json, progress, show
from ._errors import PARITY_FAILED, guarded

if TYPE_CHECKING:
    from ._demo_model import Series
    from ._demo_stream import Streamed

_TOLERANCE: Final = 1e-5


@guarded
def demo(
    *,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the model, the ONNX file and the picture.")
    ] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Train a small GRU in Keras, export it, and stream it on ONNX Runtime beside Keras.

    The series is statsmodels' weekly CO2 of Mauna Loa. Takes about a minute on two cores and
    writes co2.keras, co2.onnx and demo.png.
    """
    require("matplotlib", extra="demo", purpose="the demo")
    require("statsmodels", extra="demo", purpose="the demo")
    out.mkdir(parents=True, exist_ok=True)
    file = out / "co2.onnx"
    with progress() as report:
        report("starting TensorFlow")
        from rnnonnx.quiet import start_tensorflow

        start_tensorflow("the demo")
        import keras

        from rnnonnx.exporters import export

        from . import _demo_model, _demo_plot, _demo_stream

        keras.utils.set_random_seed(seed)
        series = _demo_model.load_series()
        if not as_json:
            note(f"training GRU({_demo_model.UNITS}) on {series.split} weeks, {epochs} epochs")
        model = _demo_model.train(
            series,
            epochs=epochs,
            on_epoch=lambda done, loss: report(f"training, loss {loss:.3f}", done, epochs),
        )
        model.save(out / "co2.keras")
        exported = export(
            model, file, states="all", progress=lambda stage: report(f"exporting: {stage}")
        )
        report("streaming week by week")
        streamed = _demo_stream.stream(model, file, series.inputs)
        report("measuring speed")
        rates = _demo_stream.steps_per_second(model, file, series.inputs)
        report("drawing")
        _demo_plot.plot(series, streamed, rates, out / "demo.png")
    numbers = _numbers(series, streamed, rates)
    _tell(numbers, exported, out, as_json=as_json)


def _tell(numbers: dict[str, Any], exported: Any, out: Path, *, as_json: bool) -> None:
    ok = numbers["max_error"] <= _TOLERANCE
    if as_json:
        print_json({"out": str(out), "ok": ok, **numbers})
        if not ok:  # as `verify` has it: the numbers are the message, in one document
            raise typer.Exit(PARITY_FAILED)
        return
    _show(numbers, exported, out)
    if not ok:
        raise ParityError(
            "the streamed outputs are not Keras's",
            expected=f"differences of at most {_TOLERANCE:g}",
            received=f"{numbers['max_error']:.2e}",
        )


def _numbers(series: Series, streamed: Streamed, rates: dict[str, float]) -> dict[str, Any]:
    import numpy as np

    from ._demo_model import HORIZON

    truth = series.ppm[HORIZON:]
    forecast = series.forecast(streamed.outputs)[:-HORIZON]
    unseen = slice(series.split, None)  # forecasts made in the test part, for the test part

    def rmse(guess: Any) -> float:
        return float(np.sqrt(np.mean((guess - truth)[unseen] ** 2)))

    last_year = (
        series.ppm[:-HORIZON][unseen] + (truth - series.ppm[:-HORIZON])[series.split - 52 : -52]
    )
    return {
        "steps": len(series.ppm),
        "max_error": streamed.max_error,
        "rmse_ppm": {
            "forecast": rmse(forecast),
            "no change": rmse(series.ppm[:-HORIZON]),
            "last year's change": float(np.sqrt(np.mean((last_year - truth[unseen]) ** 2))),
        },
        "steps_per_second": rates,
    }


def _show(numbers: dict[str, Any], exported: Any, out: Path) -> None:
    from rich.text import Text

    from ._demo_model import HORIZON
    from ._tables import parity_table, state_table, table

    show(state_table(exported.manifest))
    if exported.parity is not None:
        show(parity_table(exported.parity))
    errors = table(
        f"Error {HORIZON} weeks ahead (unseen years)",
        "",
        "RMSE (ppm)",
        right=["RMSE (ppm)"],
    )
    for name, value in numbers["rmse_ppm"].items():
        errors.add_row(name, f"{value:.2f}")
    speed = table(
        "One stream, a step at a time", "", "Steps/s", "Ratio", right=["Steps/s", "Ratio"]
    )
    fastest = numbers["steps_per_second"]["StatefulSession"]
    for name, rate in numbers["steps_per_second"].items():
        ratio = "" if rate == fastest else f"{fastest / rate:.1f}x slower"
        speed.add_row(name, f"{rate:,.0f}", ratio)
    show(
        errors,
        speed,
        Text(
            f"streamed {numbers['steps']:,} weeks one at a time:"
            f" at most {numbers['max_error']:.1e} from Keras, in outputs and states",
            "bold",
        ),
        Text(
            f"wrote {out / 'co2.keras'}, {out / 'co2.onnx'} ({human_size(exported.size)}),"
            f" {out / 'demo.png'}"
        ),
    )
