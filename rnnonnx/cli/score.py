"""`rnnonnx score`: many sequences in a file through a model."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer

from . import _parse
from ._console import note, print_json, progress
from ._engines import Engine
from ._errors import guarded
from ._options import Providers, Stateful  # noqa: TC001 (typer)


class OnError(StrEnum):
    """What an error in a row does."""

    RAISE = "raise"
    SKIP = "skip"


class Nan(StrEnum):
    """What a NaN in a row is."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 (no password)


@guarded
def score(
    model: Stateful,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A row for each sequence: .parquet, .arrow, .feather, .npz or .npy; or a folder"
            " of Parquet or of Arrow files.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A .parquet, .arrow, .feather or .npz file."),
    ],
    *,
    engine: Annotated[
        Engine, typer.Option(help="Threads of this process, or actors of a Ray cluster.")
    ] = Engine.LOCAL,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Sessions that work (one a processor)."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="The keys. Default: the column key, else the row's number."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=COLUMN",
            help="The column of an input, where it has another name. Repeatable.",
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An input that is the same for all rows: a number, or lists of numbers as JSON."
            " Repeatable.",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            help="The model's mask: sequences of nearly one length share a batch, padded.",
        ),
    ] = None,
    cast: Annotated[
        bool, typer.Option("--cast", help="Cast columns to the dtypes of the inputs.")
    ] = False,
    nan: Annotated[
        Nan, typer.Option(help="Whether a NaN or an infinity is an error in its row.")
    ] = Nan.REFUSE,
    on_error: Annotated[
        OnError,
        typer.Option(help="End at an error in a row, or name it in the column error and go on."),
    ] = OnError.RAISE,
    states: Annotated[
        bool, typer.Option("--states", help="Give the state after the last step, too.")
    ] = False,
    max_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most sequences that are run together.")
    ] = 256,
    part_rows: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Rows of a part, which a worker does at a time."),
    ] = 4096,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an earlier run has done.")
    ] = False,
    provider: Providers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Score the sequences of a file, each from the model's initial state.

    The results are in the order of the rows, beside their keys. What is done is kept in parts
    beside the output until all is: the same command goes on after a crash.
    """
    from rnnonnx.scale import score_files

    with progress() as report:
        done = score_files(
            source,
            output,
            model,
            engine=engine.value,
            workers=workers,
            part_rows=part_rows,
            restart=restart,
            progress=lambda done, total: report(f"{done} of {total} sequences", done, total),
            key=key,
            columns=_parse.pairs(column or [], "--column"),
            constants=_parse.values(fixed or [], "--set"),
            mask_input=mask,
            cast=cast,
            nan=nan.value,
            on_error=on_error.value,
            states=states,
            max_batch=max_batch,
            providers=_parse.providers(provider or []),
        )
    if as_json:
        print_json({**asdict(done), "errors": [[str(k), text] for k, text in done.errors]})
        return
    for name, text in done.errors:
        note(f"{name}: {text}")
    failed = f", {done.failed} of them with errors" if done.failed else ""
    resumed = f", {done.resumed} of {done.parts} parts done before" if done.resumed else ""
    note(f"{done.rows} sequences{failed}{resumed}, {done.seconds:.2f} s; {output}")
