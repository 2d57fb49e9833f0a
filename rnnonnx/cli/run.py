"""`rnnonnx run`: arrays through a model, with the state carried."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rnnonnx.errors import InputError

from . import _parse
from ._console import note, print_json, progress
from ._errors import guarded
from ._options import Providers, Stateful  # noqa: TC001 (typer)
from ._places import Kept, check_distinct, check_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rnnonnx.manifest import Tensor

    from ._sinks import Sink
    from ._streams import Array, Chunk

_STREAM = "A stream of raw frames"


@guarded
def run(
    model: Stateful,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A .npy file (one input), a .npz file (inputs by name), a folder of such files"
            " as a stream of chunks, or - for arrays as np.save writes them, one after the"
            " other on standard input; with --stream, for raw frames there.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="A .npy file (one output), a .npz file (outputs by name), a folder (a file for"
            " each chunk), or - for standard output.",
        ),
    ],
    *,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Feed N time steps at a time, as a stream would."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An input that does not change: a number, or lists of numbers as JSON."
            " Repeatable.",
        ),
    ] = None,
    state_in: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Start from this state file.")
    ] = None,
    state_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the state at the end (safetensors)."),
    ] = None,
    provider: Providers = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read raw frames from a pipe, little-endian, [batch, ...] for each time step,"
            " and write results alike, --chunk frames at a time (1).",
            rich_help_panel=_STREAM,
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="B", help="Rows of a frame (1).", rich_help_panel=_STREAM),
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Length of a frame, where the model leaves it open.",
            rich_help_panel=_STREAM,
        ),
    ] = None,
    input_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="What the pipe holds, if not the input's dtype: int16, say.",
            rich_help_panel=_STREAM,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR",
            help="What each number is multiplied by: 1/32768, say.",
            rich_help_panel=_STREAM,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Run a model on arrays, its state carried from chunk to chunk.

    In one file, outputs with a time axis are joined along it, so chunks give what the whole
    sequence gives. Outputs without one (a last step's) get a new first axis with a row for
    each chunk, where there are several.

    If a chunk is refused, the results of those before it are written, the state file is not.

    With --stream, frames are fed as they come, and each result is written before the next frame
    is read. Of several outputs, those of one call follow each other.
    """
    if as_json and output == "-":
        raise InputError("--json and -o - would both write to standard output")
    if not source:
        raise InputError("INPUT is empty", expected="a file, a folder, or - for standard input")
    frames = {"batch": batch, "frame": frame, "input_dtype": input_dtype, "scale": scale}
    _check_stream(source, frames, stream=stream)
    kept = _kept(model, source, output, state_in, state_out)
    from rnnonnx.runtime import StatefulSession

    from ._frames import RawSink, frame_layout, read_frames
    from ._sinks import open_sink
    from ._streams import read_chunks, split_chunks

    session = StatefulSession(model, providers=_parse.providers(provider or []))
    if provider == ["auto"]:
        note(_choice(session))
    inputs = session.manifest.inputs
    constants = _constants(fixed or [], inputs)
    if state_in is not None:
        session.load_states(state_in)
    chunks: Iterable[Chunk]
    if stream:
        layout = frame_layout(
            inputs, constants, frames, batch=batch or session.batch_size or 1, chunk=chunk
        )
        chunks = read_frames(layout, constants)
    else:
        chunks = read_chunks(source, inputs, constants)
        if chunk is not None:
            chunks = split_chunks(chunks, inputs, chunk)
    outputs = session.manifest.outputs
    sink = RawSink(outputs) if stream and output == "-" else open_sink(output, outputs, kept)
    started = time.perf_counter()
    count, written = _stream(session, chunks, sink, keeps_state=state_out is not None)
    seconds = time.perf_counter() - started
    if state_out is not None:
        session.save_states(state_out)
    if as_json:
        print_json(
            {
                "output": output,
                "outputs": written,
                "chunks": count,
                "steps": session.steps,
                "batch": session.batch_size,
                "state_in": state_in and str(state_in),
                "state_out": state_out and str(state_out),
                "providers": session.get_providers(),
                "passed_over": [asdict(item) for item in session.model.passed_over],
                "seconds": seconds,
            }
        )
    else:
        saved = f", state in {state_out}" if state_out else ""
        note(f"{count} chunks, {session.steps} steps carried, {seconds:.2f} s; {output}{saved}")


def _check_stream(source: str, frames: Mapping[str, Any], *, stream: bool) -> None:
    """Whether the options for frames stand where they mean something."""
    if stream and source != "-":
        raise InputError(
            "--stream reads frames from standard input",
            expected="- as INPUT",
            received=source,
            remedy="rnnonnx run MODEL - -o - --stream < FILE",
        )
    given = [f"--{name.replace('_', '-')}" for name, value in frames.items() if value is not None]
    if given and not stream:
        raise InputError(f"{', '.join(given)}: these say how raw frames come", expected="--stream")


def _choice(session: Any) -> str:
    """What `--provider auto` chose, and why nothing better."""
    others = "".join(f"; {item.provider}: {item.reason}" for item in session.model.passed_over)
    return f"runs on {session.get_providers()[0]}{others}"


def _kept(
    model: Path, source: str, output: str, state_in: Path | None, state_out: Path | None
) -> Kept:
    """What no result may replace. Says before the work that the state cannot be written."""
    inputs = {"the model": model, "the input": None if source == "-" else Path(source)}
    states = {"the file of --state-in": state_in, "the file of --state-out": state_out}
    if state_out is None:
        return Kept({**inputs, **states})
    check_file(state_out, "--state-out")
    # The state may go back where it came from; that is written last, and by rename.
    Kept(inputs).check(state_out)
    if output not in ("-", ""):
        check_distinct(state_out, "--state-out", Path(output), "-o")
    return Kept(
        {**inputs, "the file of --state-in": state_in, "the file of --state-out": state_out}
    )


def _stream(
    session: Any, chunks: Iterable[Chunk], sink: Sink, *, keeps_state: bool
) -> tuple[int, dict[str, Any]]:
    """Feed chunk after chunk. What was done before an error is written all the same."""
    count = 0
    try:
        with progress() as report:
            for chunk in chunks:
                sink.write(chunk.label, session.run(None, chunk.arrays))
                count += 1
                report(f"{count} chunks, {session.steps} steps")
    except BrokenPipeError:
        raise
    except BaseException:
        sink.close()
        if count:
            kept = "; the state file was not written" if keeps_state else ""
            note(f"stopped: the results of {count} chunks before the error are written{kept}")
        raise
    if not count:
        raise InputError("the input holds no chunk", expected="at least one array")
    return count, sink.close()


def _constants(items: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Array]:
    """The values of `--set` as arrays of the inputs' dtypes."""
    import numpy as np

    by_name = {tensor.name: tensor for tensor in inputs}
    found = {}
    for name, text in _parse.pairs(items, "--set").items():
        if name not in by_name:
            raise InputError(f"--set: the model has no input {name!r}", expected=", ".join(by_name))
        try:
            found[name] = np.asarray(json.loads(text), dtype=by_name[name].dtype)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"--set: the value of {name!r} is no number or list of numbers",
                expected=by_name[name].dtype,
                received=text if len(text) < 200 else f"{text[:200]}...",
            ) from error
    return found
