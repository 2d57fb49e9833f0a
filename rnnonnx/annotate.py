"""Giving any ONNX file a manifest, so that the runtime can carry its state.

A stateful ONNX model that this project did not export has its states as ordinary inputs and
outputs, and nothing in the file says which belong together. `annotate` takes that one fact
from the caller, checks it against the graph, works out the axes, and stores the manifest.

Needs the package `onnx` (extra `onnx`), imported when a function is called.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._axes import Axes
from ._extras import require
from ._files import replace_file
from ._onnx_file import (
    embed_manifest,
    extract_manifest,
    has_external_weights,
    read_model,
    weights_hash,
)
from ._state_pairs import Graph, state_of
from .errors import InputError, ManifestError
from .manifest import METADATA_KEY, Manifest, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["annotate", "embed_manifest", "extract_manifest"]


def annotate(
    path: str | os.PathLike[str],
    states: Mapping[str, str],
    *,
    output: str | os.PathLike[str] | None = None,
    batch_axes: Mapping[str, int | None] | None = None,
    time_axes: Mapping[str, int | None] | None = None,
    names: Mapping[str, str] | None = None,
    inits: Mapping[str, np.ndarray[Any, Any]] | None = None,
    replace: bool = False,
) -> Manifest:
    """Give an ONNX file a manifest.

    A state's batch axis is its one dynamic dim. An input's or output's is the dim that has
    the same symbolic name as a state's batch dim, else axis 0 where that is dynamic. The
    time axis is a dim with a name like `time` or `seq_len`. `batch_axes` and `time_axes`
    overrule. A length keeps the name that it has in the graph.

    Args:
        path: The ONNX file.
        states: Graph output by graph input: what is fed back into what.
        output: Where to write the annotated file, by rename; may be `path` itself. None
            writes nothing.
        batch_axes: Batch axis by the name of an input, output or state input; None for none.
        time_axes: Time axis by the name of an input or output; None for none.
        names: State name by state input. Without it the input's own name, less a prefix
            `state_in.`.
        inits: One row of initial values by state input, of the state's shape without its
            batch axis. Without it a state starts from zeros.
        replace: Replace a manifest that the file already has.

    Returns:
        The manifest.

    Raises:
        MissingExtraError: `onnx` is not installed.
        ModelFileError: `path` is missing or no ONNX file.
        ManifestError: The file has a manifest already and `replace` is false.
        InputError: A name is not in the graph, a pair does not fit together, an axis cannot
            be told, a shape is missing, or an initial value is not the state's.
    """
    model = read_model(path)
    if not replace and any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ManifestError(
            f"{os.fspath(path)} already has a manifest", remedy="ask to replace it (--replace)"
        )
    if not states:
        raise InputError("no state is named", remedy="name each as INPUT=OUTPUT")
    graph = Graph(model)
    _check_overrides(
        graph, states, batch_axes or {}, time_axes or {}, {**(names or {}), **(inits or {})}
    )
    tensors = [
        state_of(
            graph,
            taken,
            given,
            name=(names or {}).get(taken, taken.removeprefix("state_in.")),
            batch_axes=batch_axes or {},
            init=(inits or {}).get(taken),
        )
        for taken, given in states.items()
    ]
    shared = {
        graph.inputs[state.input][1][state.batch_axis]
        for state in tensors
        if state.batch_axis is not None
    } - {None}
    axes = Axes(shared, batch_axes or {}, time_axes or {})
    inputs, outputs = axes.tensors(
        {name: spec for name, spec in graph.inputs.items() if name not in states},
        {name: spec for name, spec in graph.outputs.items() if name not in states.values()},
    )
    manifest = Manifest(
        producer=f"rnnonnx {version('rnnonnx')}",
        source=Source(
            framework="onnx",
            model=model.graph.name or Path(path).stem,
            weights=weights_hash(model, Path(path).parent),
            versions={"onnx": require("onnx", extra="onnx", purpose="annotating").__version__},
        ),
        inputs=inputs,
        outputs=outputs,
        states=tuple(tensors),
    )
    # What is written can be read: names, too, are data from outside.
    manifest = Manifest.from_json(manifest.to_json())
    if output is not None:
        _write(embed_manifest(model, manifest), Path(path), Path(output))
    return manifest


def _check_overrides(
    graph: Graph,
    states: Mapping[str, str],
    batch_axes: Mapping[str, int | None],
    time_axes: Mapping[str, int | None],
    by_state: Mapping[str, object],
) -> None:
    """Refuse an override that names nothing, and pairs or axes that cannot be."""
    ends = list(states.values())
    repeated = sorted({end for end in ends if ends.count(end) > 1})
    if repeated:
        raise InputError(f"outputs are named for more than one state: {', '.join(repeated)}")
    for name in by_state:
        if name not in states:
            raise InputError(f"{name!r} is no state input", expected=f"one of {', '.join(states)}")
    specs = {**graph.outputs, **graph.inputs}
    for name, axis in [*batch_axes.items(), *time_axes.items()]:
        if name not in specs:
            raise InputError(
                f"the graph has no input or output named {name!r}",
                expected=f"one of {', '.join(specs)}",
            )
        rank = len(specs[name][1])
        if axis is not None and not 0 <= axis < rank:
            raise InputError(
                f"{name!r} has no such axis", expected=f"0 to {rank - 1}", received=axis
            )


def _write(model: Any, source: Path, output: Path) -> None:
    """Write the file, and refuse a place from which it would not find its weights."""
    if has_external_weights(model) and source.resolve().parent != output.resolve().parent:
        raise InputError(
            f"{source} keeps its weights in other files, by relative paths",
            expected=f"an output in {source.resolve().parent}",
            received=str(output),
            remedy="write beside the input, and move the files together",
        )
    replace_file(output, model.SerializeToString())
