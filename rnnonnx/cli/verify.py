"""`rnnonnx verify`: does an ONNX file compute what the Keras model computes."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import typer

from . import _parse
from ._console import print_json, progress, show
from ._errors import PARITY_FAILED, guarded
from ._options import AllowUnsafe, CustomObjects, Tolerance, Weights  # noqa: TC001 (typer)
from ._places import Kept, check_distinct, check_file

if TYPE_CHECKING:
    from rnnonnx.verify import ParityReport


@guarded
def verify(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="Keras model: .keras, .h5, .json or a SavedModel directory."
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Inputs by name. Default: random, several batches and lengths."
        ),
    ] = None,
    calls: Annotated[
        int, typer.Option(min=1, help="Consecutive calls, state carried from one to the next.")
    ] = 3,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Engines to compare with Keras: rnnonnx (the default), onnxruntime, openvino,"
            " torch, tflite; or all that can run.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Also stream so many steps, and tell how the error goes on."),
    ] = None,
    layers: Annotated[
        bool | None,
        typer.Option(
            "--layers/--no-layers",
            help="Compare the output of every layer. Default: where the file departs, or --html.",
        ),
    ] = None,
    tolerance: Tolerance = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as one HTML page.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JUnit XML, for CI.")
    ] = None,
    weights: Weights = None,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare an ONNX file with its Keras model, output by output and state by state.

    Exits with 0 if every difference is within the tolerance, with 1 if not.
    """
    from rnnonnx.verify import plan_engines, require_html, write_html, write_junit

    plan_engines(against)
    _check_places(
        {"the model": model, "the ONNX file": file, "--data": data, "--weights": weights},
        html,
        junit,
    )
    if html is not None:
        require_html()
    arrays = None
    if data is not None:
        from ._streams import read_npz

        arrays = read_npz(data)
    with progress() as report:
        report("starting TensorFlow")
        from rnnonnx.quiet import start_tensorflow

        start_tensorflow("comparing with Keras")
        from rnnonnx.verify import verify as compare

        report("loading the model")
        result = compare(
            str(model),
            file,
            calls=calls,
            data=arrays,
            tolerance=tolerance,
            weights=weights,
            custom_objects=_parse.custom_objects(custom_objects or []),
            safe_mode=not allow_unsafe,
            against=against,
            steps=steps,
            layers=True if layers is None and html is not None else layers,
            progress=report,
        )
    if html is not None:
        write_html(result, html)
    if junit is not None:
        write_junit(result, junit)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)
    if not result.ok:
        raise typer.Exit(PARITY_FAILED)


def _check_places(read: dict[str, Path | None], html: Path | None, junit: Path | None) -> None:
    """Know before the work whether the reports can be written, and over nothing that is read."""
    kept = Kept(read)
    for target, option in ((html, "--html"), (junit, "--junit")):
        if target is not None:
            kept.check(target)
            check_file(target, option)
    if html is not None and junit is not None:
        check_distinct(html, "--html", junit, "--junit")


def _show(result: ParityReport) -> None:
    from rich.text import Text

    from ._tables import drift_table, layer_error_table, parity_table

    show(parity_table(result))
    if result.drift:
        show(drift_table(result))
    if result.layers:
        show(layer_error_table(result))
    for engine in result.engines:
        if engine.not_run:
            show(Text(f"not run: {engine.name}: {engine.not_run}", "yellow"))
        if engine.stopped:
            show(Text(f"not finished: {engine.name}: {engine.stopped}", "yellow"))
    for line in result.checks:
        show(Text(f"compared: {line}", "dim"))
    for line in result.notes:
        show(Text(f"note: {line}", "yellow"))
    if result.rounded is not None:
        show(Text(f"compared: {result.rounded}", "dim"))
        show(*(Text(line, "red") for line in result.rounded.failures()))
    if result.float16:
        show(Text(f"float16: {', '.join(result.float16)}", "dim"))
    if result.departure is not None:
        show(Text(str(result.departure), "bold red"))
        show(*(Text(f"  {weight}") for weight in result.departure.weights))
    verdict = Text("equal", "bold green") if result.ok else Text("NOT equal", "bold red")
    show(
        verdict
        + Text(
            f": largest difference {result.max_abs:.2e}, tolerance {result.tolerance:g}"
            f" ({result.budget})",
            "default",
        )
    )
