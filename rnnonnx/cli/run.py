"""`rnnonnx run`: arrays through a model, with the state carried."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rnnonnx.errors import InputError

from . import _parse
from ._console import note, print_json, progress
from ._errors import guarded
from ._places import Kept, check_distinct, check_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rnnonnx.manifest import Tensor

    from ._sinks import Sink
    from ._streams import Array, Chunk

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


@guarded
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file with a manifest.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A .npy file (one input), a .npz file (inputs by name), a folder of such files"
            " as a stream of chunks, or - for arrays as np.save writes them, one after the"
            " other on standard input.",
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
    provider: Annotated[
        list[str] | None,
        typer.Option(help="Execution provider: cpu, cuda, or its full name. Repeatable, in order."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Run a model on arrays, its state carried from chunk to chunk.

    In one file, outputs with a time axis are joined along it, so chunks give what the whole
    sequence gives. Outputs without one (a last step's) get a new first axis with a row for
    each chunk, where there are several.

    If a chunk is refused, the results of those before it are written, the state file is not.
    """
    if as_json and output == "-":
        raise InputError("--json and -o - would both write to standard output")
    if not source:
        raise InputError("INPUT is empty", expected="a file, a folder, or - for standard input")
    kept = _kept(model, source, output, state_in, state_out)
    from rnnonnx.runtime import StatefulSession

    from ._sinks import open_sink
    from ._streams import read_chunks

    names = [_PROVIDERS.get(name.lower(), name) for name in provider or []]
    session = StatefulSession(model, providers=names or None)
    inputs = session.manifest.inputs
    constants = _constants(fixed or [], inputs)
    if state_in is not None:
        session.load_states(state_in)
    chunks: Iterable[Chunk] = read_chunks(source, inputs, constants)
    if chunk is not None:
        chunks = _split(chunks, inputs, chunk)
    sink = open_sink(output, session.manifest.outputs, kept)
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
                "seconds": seconds,
            }
        )
    else:
        saved = f", state in {state_out}" if state_out else ""
        note(f"{count} chunks, {session.steps} steps carried, {seconds:.2f} s; {output}{saved}")


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


def _split(chunks: Iterable[Chunk], inputs: Sequence[Tensor], size: int) -> Iterator[Chunk]:
    """Cut each chunk along time into chunks of `size` steps; the last may be shorter."""
    from ._streams import Chunk

    axes = {tensor.name: tensor.time_axis for tensor in inputs if tensor.time_axis is not None}
    if not axes:
        raise InputError(
            "--chunk cuts along time, and no input of the model has a time axis",
            remedy="rnnonnx annotate --time-axis INPUT=N names one in a file made elsewhere",
        )
    for chunk in chunks:
        lengths = {
            name: chunk.arrays[name].shape[axis]
            for name, axis in axes.items()
            if chunk.arrays[name].ndim > axis  # a wrong rank is the session's to refuse
        }
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"the inputs of {chunk.label} differ in length, so they cannot be cut alike",
                received=", ".join(f"{name}: {length}" for name, length in lengths.items()),
            )
        total = next(iter(lengths.values()), 0)
        for number, start in enumerate(range(0, max(total, 1), size)):
            part = {}
            for name, array in chunk.arrays.items():
                index = [slice(None)] * array.ndim
                if name in lengths:
                    index[axes[name]] = slice(start, start + size)
                part[name] = array[tuple(index)]
            yield Chunk(f"{chunk.label}.{number:06d}", part)
