"""`rnnonnx export`: a Keras model to an ONNX file with explicit state."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Any

import typer

from . import _parse
from ._console import human_size, print_json, progress, show
from ._errors import guarded
from ._options import AllowUnsafe, CustomObjects, Tolerance, Weights  # noqa: TC001 (typer)
from ._places import Kept, check_file

_STAGES = {
    "load": "loading the model",
    "capture": "tracing the model",
    "lower": "converting to ONNX",
    "finish": "naming and tidying the graph",
    "check": "comparing with Keras",
}


@guarded
def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="Keras model: .keras, .h5, .json or a SavedModel directory."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    *,
    states: Annotated[
        str,
        typer.Option(
            metavar="all|stateful|none|IN=OUT,...",
            help="Whose state becomes inputs and outputs: every recurrent layer's, that of layers"
            " built with stateful=True, none, or pairs that the model already has.",
        ),
    ] = "stateful",
    opset: Annotated[int, typer.Option(help="ONNX operator set version.")] = 18,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pin the batch size. Default: dynamic.")
    ] = None,
    optimize: Annotated[
        str,
        typer.Option(
            metavar="balanced|latency|throughput|portable",
            help="What the file is fastest for: any batch and length, single rows and steps, many"
            " rows and long chunks; or recurrent operators alone, for GPUs.",
        ),
    ] = "balanced",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="OLD=NEW", help="Rename an input or output. Repeatable."),
    ] = None,
    weights: Weights = None,
    input_dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DTYPE", help="Another dtype for an input (int32, ...). Repeatable."
        ),
    ] = None,
    custom_objects: CustomObjects = None,
    allow_unsafe: AllowUnsafe = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Inputs by name to compare with Keras on. Default: random values.",
        ),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare with Keras at the end.")
    ] = False,
    tolerance: Tolerance = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="float16|bfloat16|int8|LAYER=...",
            help="float16 for a file for GPUs, int8 for a smaller and faster one on CPUs, bfloat16"
            " for smaller weights alone; or by layer, repeatable. Inputs, outputs and states"
            " stay float32.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a Keras model to one ONNX file with explicit state, checked against Keras.

    The file is written only if it computes what Keras computes, over several calls with
    carried state and several batch sizes and lengths. Batch and time stay dynamic.
    """
    wanted = _parse.states(states)
    names = _parse.pairs(name or [], "--name")
    dtypes = _parse.pairs(input_dtype or [], "--input-dtype")
    reduced = _parse.precision(precision or [])
    check_file(output, "-o")
    Kept({"the model": model, "the file of --data": data}).check(output)
    samples = None
    if data is not None:
        from ._streams import read_npz

        samples = read_npz(data)
    with progress() as report:
        report("starting TensorFlow")
        from rnnonnx.quiet import start_tensorflow

        start_tensorflow("exporting a Keras model")
        from rnnonnx import exporters

        result = exporters.export(
            str(model),
            output,
            states=wanted,
            opset=opset,
            batch=batch,
            optimize=optimize,  # type: ignore[arg-type]  # export refuses what it does not know
            names=names or None,
            input_dtypes=dtypes or None,
            verify=not no_verify,
            tolerance=tolerance,
            precision=reduced,
            sample_inputs=samples,
            weights=weights,
            custom_objects=_parse.custom_objects(custom_objects or []),
            safe_mode=not allow_unsafe,
            progress=lambda stage: report(_STAGES.get(stage, stage)),
        )
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


def _show(result: Any) -> None:
    from rich.text import Text

    from ._tables import parity_table, state_table, table

    reduced = result.manifest.precision is not None
    columns = ["Layer", "Class", *["Precision"] * reduced, "ONNX"]
    layers = table(f"{result.model_name}: layers", *columns)
    for layer in result.layers:
        precision = [layer.precision] * reduced
        layers.add_row(Text(layer.name, "cyan"), layer.class_name, *precision, layer.form)
    show(layers, state_table(result.manifest))
    if result.parity is not None:
        show(parity_table(result.parity))
    kept = [f"layer {entry.name!r}: {entry.note}" for entry in result.layers if entry.note]
    for line in (*kept, *result.notes):
        show(Text(f"note: {line}", "yellow"))
    nodes = sum(result.nodes.values())
    show(
        Text(
            f"wrote {result.path}: {human_size(result.size)}, {nodes} nodes,"
            f" opset {result.opset}, {result.seconds:.1f} s"
        )
    )
