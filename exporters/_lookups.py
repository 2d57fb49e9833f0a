"""Which inputs of a model an Embedding looks up: samples of those must lie in its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ._tracer import is_eager

if TYPE_CHECKING:
    from ._tracer import Tracer


# Operations whose values are some of their inputs': which of the inputs those are.
_FIRST, _ALL = slice(1), slice(None)
_MOVING = {
    "Cast": _FIRST,
    "BroadcastTo": _FIRST,
    "ConcatV2": _ALL,
    "EnsureShape": _FIRST,
    "ExpandDims": _FIRST,
    "GatherNd": _FIRST,
    "GatherV2": _FIRST,
    "Identity": _FIRST,
    "IdentityN": _ALL,
    "Pack": _ALL,
    "Pad": _FIRST,
    "Reshape": _FIRST,
    "ReverseV2": _FIRST,
    "SelectV2": slice(1, None),
    "Slice": _FIRST,
    "Split": slice(1, None),
    "SplitV": _FIRST,
    "Squeeze": _FIRST,
    "StopGradient": _FIRST,
    "StridedSlice": _FIRST,
    "Tile": _FIRST,
    "Transpose": _FIRST,
    "Unpack": _FIRST,
}


def note_lookup(tracer: Tracer, indices: Any, size: int) -> None:
    """Remember which input an Embedding reads: samples of it must lie in the table."""
    if is_eager(indices) or not isinstance(indices, tf.Tensor):
        return  # a table of positions, say, that is a constant of the model
    waiting, seen = [indices], set()
    while waiting:
        tensor = waiting.pop()
        if is_eager(tensor) or tensor.op.name in seen:
            continue
        operation = tensor.op
        seen.add(operation.name)
        position = operation.name.removeprefix("input_")
        if operation.type == "Placeholder" and position.isdigit():
            tracer.lookups[int(position)] = min(size, tracer.lookups.get(int(position), size))
        elif operation.type in _MOVING:
            waiting += operation.inputs[_MOVING[operation.type]]
