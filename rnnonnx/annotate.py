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
from typing import TYPE_CHECKING, Any, Final

from ._extras import require
from ._files import replace_file
from ._onnx_file import (
    embed_manifest,
    extract_manifest,
    has_external_weights,
    read_model,
    tensor_spec,
    weights_hash,
)
from .errors import InputError, ManifestError
from .manifest import (
    BATCH,
    DTYPES,
    METADATA_KEY,
    TIME,
    Dim,
    Manifest,
    Source,
    StateTensor,
    Tensor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["annotate", "embed_manifest", "extract_manifest"]

TIME_NAMES: Final = frozenset(["time", "sequence", "seq_len", "sequence_length", "timesteps"])
"""Names of symbolic dims that are taken for the time axis without being told."""


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
    time axis is a dim whose name is in `TIME_NAMES`. `batch_axes` and `time_axes` overrule.

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
        InputError: A name is not in the graph, a pair does not fit together, or an axis
            cannot be told.
    """
    model = read_model(path)
    if not replace and any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ManifestError(
            f"{os.fspath(path)} already has a manifest", remedy="ask to replace it (--replace)"
        )
    if not states:
        raise InputError("no state is named", remedy="name each as INPUT=OUTPUT")
    graph = _Graph(model)
    _check_overrides(
        graph, states, batch_axes or {}, time_axes or {}, {**(names or {}), **(inits or {})}
    )
    tensors = [
        _state(
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
    axes = _Axes(shared, batch_axes or {}, time_axes or {})
    manifest = Manifest(
        producer=f"rnnonnx {version('rnnonnx')}",
        source=Source(
            framework="onnx",
            model=model.graph.name or Path(path).stem,
            weights=weights_hash(model, Path(path).parent),
            versions={"onnx": require("onnx", extra="onnx", purpose="annotating").__version__},
        ),
        inputs=tuple(
            axes.tensor(name, *spec) for name, spec in graph.inputs.items() if name not in states
        ),
        outputs=tuple(
            axes.tensor(name, *spec)
            for name, spec in graph.outputs.items()
            if name not in states.values()
        ),
        states=tuple(tensors),
    )
    if output is not None:
        _write(embed_manifest(model, manifest), Path(path), Path(output))
    return manifest


class _Graph:
    """Dtype and shape of a graph's real inputs (not its initializers) and outputs."""

    def __init__(self, model: Any) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {
            value.name: tensor_spec(value)
            for value in model.graph.input
            if value.name not in stored
        }
        self.outputs = {value.name: tensor_spec(value) for value in model.graph.output}


class _Axes:
    """Which axes of inputs and outputs are batch and time."""

    def __init__(
        self,
        batch_dims: set[Dim],
        batch_axes: Mapping[str, int | None],
        time_axes: Mapping[str, int | None],
    ) -> None:
        self._batch_dims = batch_dims
        self._batch_axes = batch_axes
        self._time_axes = time_axes

    def tensor(self, name: str, dtype: str, shape: tuple[Dim, ...]) -> Tensor:
        """The manifest's entry for an input or output that is not a state."""
        _known_dtype(name, dtype)
        batch = self._batch_axes[name] if name in self._batch_axes else self._batch(shape)
        if name in self._time_axes:
            time = self._time_axes[name]
        else:
            named = [i for i, dim in enumerate(shape) if dim in TIME_NAMES and i != batch]
            time = named[0] if named else None
        if batch is not None and batch == time:
            raise InputError(f"{name!r} has axis {batch} as both batch and time")
        dims = [
            BATCH if axis == batch else TIME if axis == time else dim
            for axis, dim in enumerate(shape)
        ]
        # A size that the graph fixes stays: the axis is known, and the runtime keeps to the size.
        kept = [a if isinstance(a, int) else b for a, b in zip(shape, dims, strict=True)]
        return Tensor(name, dtype, tuple(kept), batch_axis=batch, time_axis=time)

    def _batch(self, shape: tuple[Dim, ...]) -> int | None:
        for axis, dim in enumerate(shape):
            if dim in self._batch_dims:
                return axis
        first_is_dynamic = bool(shape) and not isinstance(shape[0], int)
        return 0 if first_is_dynamic and shape[0] not in TIME_NAMES else None


def _state(
    graph: _Graph,
    taken: str,
    given: str,
    *,
    name: str,
    batch_axes: Mapping[str, int | None],
    init: np.ndarray[Any, Any] | None,
) -> StateTensor:
    """Check that output `given` can be fed back into input `taken`, and describe the pair."""
    for what, wanted, present in (
        ("input", taken, graph.inputs),
        ("output", given, graph.outputs),
    ):
        if wanted not in present:
            raise InputError(
                f"the graph has no {what} named {wanted!r}",
                expected=f"one of {', '.join(present)}",
                received=wanted,
            )
    (dtype, shape), (out_dtype, out_shape) = graph.inputs[taken], graph.outputs[given]
    _known_dtype(taken, dtype)
    fits = len(shape) == len(out_shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(shape, out_shape, strict=False)
    )
    if dtype != out_dtype or not fits:
        raise InputError(
            f"output {given!r} cannot be fed back into input {taken!r}",
            expected=f"{dtype} {_dims(shape)}",
            received=f"{out_dtype} {_dims(out_shape)}",
        )
    dynamic = [axis for axis, dim in enumerate(shape) if not isinstance(dim, int)]
    batch = batch_axes[taken] if taken in batch_axes else dynamic[0] if dynamic else None
    if dynamic != ([] if batch is None else [batch]):
        raise InputError(
            f"state {taken!r} must have its batch axis as its only dynamic dim",
            expected="sizes, with one dynamic dim at most, the batch",
            received=f"{_dims(shape)}, batch axis {'none' if batch is None else batch}",
            remedy=f"name it with --batch-axis {taken}=N, if the others are fixed",
        )
    row = tuple(dim for dim in shape if isinstance(dim, int))
    if init is not None and init.shape != row:
        raise InputError(
            f"the initial value of state {taken!r} must be one row",
            expected=f"shape {list(row)}",
            received=f"shape {list(init.shape)}",
        )
    return StateTensor(
        name=name,
        input=taken,
        output=given,
        dtype=dtype,
        shape=tuple(dim if isinstance(dim, int) else BATCH for dim in shape),
        init="zeros" if init is None else _nested(init.tolist()),
    )


def _nested(value: Any) -> Any:
    return tuple(_nested(item) for item in value) if isinstance(value, list) else value


def _dims(shape: tuple[Dim, ...]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def _known_dtype(name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(
            f"{name!r} has an element type that the runtime cannot feed",
            expected=", ".join(sorted(DTYPES)),
            received=dtype,
        )


def _check_overrides(
    graph: _Graph,
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
