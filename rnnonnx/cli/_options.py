"""Options that more than one command has, each with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

CustomObjects: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:NAME", help="A class that the model needs. Repeatable."),
]
Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The weights of a model that is a .json file."),
]
AllowUnsafe: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe",
        help="Load a file that carries code of its own (Lambda). Only for files you trust.",
    ),
]
Tolerance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Largest difference from Keras that passes. Default: 1e-5; 2**-7 with float16;"
        " 2**-4 with int8.",
    ),
]
Providers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Execution provider: cpu, cuda, or its full name; auto for the best that starts."
        " Repeatable, in order."
    ),
]
Stateful: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file with a manifest.")
]
