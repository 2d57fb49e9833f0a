"""`rnnonnx verify`: does an ONNX file compute what the Keras model computes."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer

from . import _parse
from ._console import print_json, progress, show
from ._errors import PARITY_FAILED, guarded
from ._options import AllowUnsafe, CustomObjects, Tolerance, Weights  # noqa: TC001 (typer)


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
    tolerance: Tolerance = None,
    weights: Weights = None,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare an ONNX file with its Keras model, output by output and state by state.

    Exits with 0 if every difference is within the tolerance, with 1 if not.
    """
    arrays = None
    if data is not None:
        from ._streams import read_npz

        arrays = read_npz(data)
    with progress() as report:
        report("starting TensorFlow")
        from rnnonnx.quiet import start_tensorflow

        start_tensorflow("comparing with Keras")
        from rnnonnx.verify import verify as compare

        report("comparing with Keras")
        result = compare(
            str(model),
            file,
            calls=calls,
            data=arrays,
            tolerance=tolerance,
            weights=weights,
            custom_objects=_parse.custom_objects(custom_objects or []),
            safe_mode=not allow_unsafe,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        from rich.text import Text

        from ._tables import parity_table

        show(parity_table(result))
        for line in result.checks:
            show(Text(f"compared: {line}", "dim"))
        if result.float16:
            show(Text(f"float16: {', '.join(result.float16)}", "dim"))
        verdict = (
            Text("equal", "bold green") if result.ok else Text("NOT equal", "bold red")
        ) + Text(
            f": largest difference {result.max_abs:.2e}, tolerance {result.tolerance:g}", "default"
        )
        show(verdict)
    if not result.ok:
        raise typer.Exit(PARITY_FAILED)
