"""The pairs of a graph's inputs and outputs that are its states, checked against the graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._extras import require
from ._onnx_file import has_shape, tensor_spec
from .errors import InputError
from .manifest import BATCH, DTYPES, Dim, StateTensor

if TYPE_CHECKING:
    from collections.abc import Mapping


class Graph:
    """Dtype and shape of a graph's real inputs (not its initializers) and outputs.

    Args:
        model: The `onnx.ModelProto`.

    Raises:
        InputError: One has an element type or a rank that nobody knows.
    """

    def __init__(self, model: Any) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        outputs = list(model.graph.output)
        if not all(map(has_shape, outputs)):
            outputs = _inferred(model) or outputs
        for value in [*inputs, *outputs]:
            _known_dtype(value.name, tensor_spec(value)[0])
            if not has_shape(value):
                raise InputError(
                    f"{value.name!r} has no shape in the graph, and none can be inferred",
                    remedy="give it one, dynamic where it must be, in the tool that made the file",
                )
        self.inputs = {value.name: tensor_spec(value) for value in inputs}
        self.outputs = {value.name: tensor_spec(value) for value in outputs}


def _inferred(model: Any) -> list[Any]:
    """The outputs with the shapes that ONNX infers; none where it cannot."""
    inference = require("onnx.shape_inference", extra="onnx", purpose="inferring shapes")
    try:
        return list(inference.infer_shapes(model).graph.output)
    except (inference.InferenceError, RuntimeError, ValueError):
        return []


def state_of(
    graph: Graph,
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
    _check_growth(graph, taken, given)
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
    return StateTensor(
        name=name,
        input=taken,
        output=given,
        dtype=dtype,
        shape=tuple(dim if isinstance(dim, int) else BATCH for dim in shape),
        init="zeros" if init is None else _row(taken, init, dtype, row),
    )


def _check_growth(graph: Graph, taken: str, given: str) -> None:
    """Refuse a state of a fixed size whose output has the size of what is fed."""
    (_, shape), (_, out_shape) = graph.inputs[taken], graph.outputs[given]
    fed = {
        dim
        for name, (_, dims) in graph.inputs.items()
        if name != taken
        for dim in dims
        if isinstance(dim, str)
    }
    for dim, out in zip(shape, out_shape, strict=True):
        if isinstance(dim, int) and out in fed:
            raise InputError(
                f"output {given!r} cannot be fed back into input {taken!r}:"
                f" its size {out!r} is that of an input",
                expected=_dims(shape),
                received=_dims(out_shape),
            )


def _row(taken: str, init: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    """One row of initial values as nested tuples of numbers that `dtype` holds."""
    kind = np.dtype(dtype)
    if init.shape != shape:
        raise InputError(
            f"the initial value of state {taken!r} must be one row",
            expected=f"shape {list(shape)}",
            received=f"shape {list(init.shape)}",
        )
    if init.dtype.kind not in "biuf":
        raise InputError(
            f"the initial value of state {taken!r} is not of numbers",
            expected=dtype,
            received=str(init.dtype),
        )
    # Python's numbers, which know no range of their own
    numbers = init.astype(np.float64 if init.dtype.kind == "f" else object)
    values = [
        int(value) if kind.kind != "f" and value == int(value) else float(value)
        for value in numbers.ravel().tolist()
        if math.isfinite(value)
    ]
    if len(values) < init.size or not all(_holds(kind, value) for value in values):
        raise InputError(
            f"the initial value of state {taken!r} has values that the state cannot hold",
            expected=f"finite values of {dtype}",
            received=f"{init.min()} to {init.max()}",
        )
    return _nested(np.asarray(values, dtype=object).reshape(shape).tolist())


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


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
