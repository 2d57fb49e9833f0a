"""Which inputs of a model an Embedding looks up: samples of those must lie in its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ._tracer import is_eager

if TYPE_CHECKING:
    from ._tracer import Tracer


def note_lookup(tracer: Tracer, indices: Any, size: int) -> None:
    """Remember which input an Embedding reads: samples of it must lie in the table."""
    if is_eager(indices) or not isinstance(indices, tf.Tensor):
        return  # a table of positions, say, that is a constant of the model
    operation = indices.op
    while operation.type != "Placeholder" and operation.inputs:
        if is_eager(operation.inputs[0]):
            return
        operation = operation.inputs[0].op
    position = operation.name.removeprefix("input_")
    if position.isdigit():
        tracer.lookups[int(position)] = min(size, tracer.lookups.get(int(position), size))
