"""`rnnonnx triton`: a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer

from ._console import print_json, show
from ._errors import guarded
from ._options import Stateful  # noqa: TC001 (typer)
from ._places import check_folder


@guarded
def triton(
    model: Stateful,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="The model repository.")
    ],
    *,
    name: Annotated[
        str | None, typer.Option(help="The model's name. Default: the file's, without its ending.")
    ] = None,
    version: Annotated[int, typer.Option(min=1, help="The model's version number.")] = 1,
    backend: Annotated[
        str,
        typer.Option(
            help="What runs it: onnxruntime, with Triton's implicit state, or python, with"
            " rnnonnx.runtime."
        ),
    ] = "onnxruntime",
    max_batch: Annotated[
        int, typer.Option(min=1, help="Most sequences that are stepped together.")
    ] = 64,
    capacity: Annotated[
        int, typer.Option(min=1, help="Most sequences that are open at once.")
    ] = 1024,
    idle_timeout: Annotated[
        float, typer.Option(help="Seconds after which a sequence without requests is ended.")
    ] = 60.0,
    max_delay: Annotated[
        float, typer.Option(help="Seconds that a request waits for others to join its batch.")
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Write a Triton model repository in which Triton carries the states.

    The configuration is checked against Triton's own protobuf and against the graph.
    """
    check_folder(output, "-o")
    from rnnonnx.triton import Sequences, write_repository

    written = write_repository(
        model,
        output,
        name=name,
        version=version,
        backend=backend,  # type: ignore[arg-type]  # checked there, with the names it may have
        max_batch=max_batch,
        sequences=Sequences(capacity, idle_timeout, max_delay),
    )
    if as_json:
        print_json(
            {
                "path": str(written.path),
                "name": written.name,
                "version": written.version,
                "files": [str(file) for file in written.files],
            }
        )
        return
    from rich.text import Text

    lines = "\n".join(f"  {file}" for file in written.files)
    show(
        Text(
            f"wrote {written.name!r}, version {written.version}, into {written.path}:\n{lines}\n"
            f"checked against Triton's protobuf and the graph\n"
            f"tritonserver --model-repository={written.path.absolute()}"
        )
    )
