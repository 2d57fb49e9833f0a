"""`rnnonnx annotate`: a manifest for an ONNX file that was made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rnnonnx._files import same_file
from rnnonnx.errors import InputError

from . import _parse
from ._console import print_json, show
from ._errors import guarded
from ._places import check_file

if TYPE_CHECKING:
    from collections.abc import Iterable


@guarded
def annotate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file.")],
    state: Annotated[
        list[str],
        typer.Option(
            "--state",
            metavar="INPUT=OUTPUT",
            help="A state: the graph output that is fed back into the graph input. Repeatable.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The annotated file to write.")
    ] = None,
    *,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace FILE itself, by rename.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="INPUT=NAME", help="Name a state. Default: its input's name."
        ),
    ] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            "--init",
            metavar="INPUT=ROW.npy",
            help="Where a state starts: one row of values, without the batch axis. Default: zeros.",
        ),
    ] = None,
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENSOR=N|none",
            help="Batch axis of an input, output or state input, where it cannot be told.",
        ),
    ] = None,
    time_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENSOR=N|none",
            help="Time axis of an input or output. Default: a dim named time, sequence or seq_len.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a manifest that the file already has.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Give any ONNX file a manifest, so that rnnonnx carries its state.

    The graph is not changed. Names, dtypes and shapes are checked, and the axes worked out.
    """
    target = _target(file, output, in_place=in_place)
    from rnnonnx.annotate import annotate as write

    from ._streams import read_npy

    manifest = write(
        file,
        _parse.pairs(state, "--state"),
        output=target,
        names=_parse.pairs(name or [], "--name"),
        inits={
            key: read_npy(Path(value)) for key, value in _parse.pairs(init or [], "--init").items()
        },
        batch_axes=_parse.axes(batch_axis or [], "--batch-axis"),
        time_axes=_parse.axes(time_axis or [], "--time-axis"),
        replace=replace,
    )
    if as_json:
        print_json({"path": str(target), "manifest": json.loads(manifest.to_json())})
        return
    from rich.text import Text

    from ._tables import dims, state_table, table

    tensors = table("Inputs and outputs", "", "Name", "Dtype", "Shape", "Batch axis", "Time axis")
    for kind, items in (("in", manifest.inputs), ("out", manifest.outputs)):
        for item in items:
            axes = _axes([item.batch_axis, item.time_axis])
            tensors.add_row(kind, item.name, item.dtype, dims(item.shape), *axes)
    show(state_table(manifest), tensors, Text(f"wrote {target}"))


def _axes(values: Iterable[int | None]) -> list[str]:
    return ["-" if value is None else str(value) for value in values]


def _target(file: Path, output: Path | None, *, in_place: bool) -> Path:
    """Where to write. A file is replaced only by those who say so."""
    if in_place and output is not None:
        raise InputError("-o and --in-place exclude each other")
    if in_place:
        return file
    if output is None:
        raise InputError("where to write is not said", expected="-o OUT, or --in-place")
    check_file(output, "-o")
    if same_file(output, file):
        raise InputError(
            f"{output} is the input itself", remedy="use --in-place if you mean to replace it"
        )
    return output
