"""One step of a recurrent layer as a TensorFlow function of its own: the body of its Scan.

The cell is traced once, with Keras's rule on masks around it
(keras/src/backend/tensorflow/rnn.py): a masked step keeps the states and repeats the previous
output, zeros before the first valid step, or gives zeros with `zero_output_for_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ._compat import private
from ._registry import NotLowerableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._builder import GraphBuilder
    from ._layers import LayerEntry
    from ._tracer import Tracer


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a layer.

    Attributes:
        function: Takes the states, the previous output if `repeats`, then a slice of each
            sequence (the inputs, and the mask if there is one); gives the new states, then
            the output unless `alias` says which of the states it is.
        output: The output tensor.
        alias: The position of the state that is the output, if nothing else is wanted of it.
        repeats: Whether a masked step repeats the previous output.
    """

    function: Any
    output: Any
    alias: int | None
    repeats: bool


def trace_step(
    tracer: Tracer,
    entry: LayerEntry,
    slices: Sequence[Any],
    initial_state: Any,
    training: bool,  # noqa: FBT001 - Keras's signature
) -> Step:
    """Trace the cell as a function of its own, and again inside of the rule on masks.

    Raises:
        NotLowerableError: The step reads a tensor that belongs to the trace around it.
    """
    layer = entry.layer
    states = keras.tree.flatten(initial_state)
    structure = tuple(initial_state)
    arguments = {}
    if isinstance(layer.cell, keras.Layer) and private(layer.cell, "_call_has_training_arg"):
        arguments["training"] = training
    # [batch, time, ...] -> [batch, ...]
    shapes = [[value.shape[0], *value.shape[2:]] for value in slices]
    found: dict[str, Any] = {"alias": None}

    def cell(flat: Sequence[Any], inputs: Any) -> tuple[Any, list[Any]]:
        output, new = layer.cell(
            inputs, keras.tree.pack_sequence_as(structure, list(flat)), **arguments
        )
        return output, keras.tree.flatten(new)

    def plain(*tensors: Any) -> list[Any]:
        output, new = cell(tensors[: len(states)], tensors[-1])
        if not layer.return_sequences:
            same = [index for index, state in enumerate(new) if state is output]
            found["alias"] = same[0] if same else None
        found["output"] = output
        return new if found["alias"] is not None else [*new, output]

    def masked(*tensors: Any) -> list[Any]:
        *flat, inputs, mask = tensors
        output, new = cell(flat[: len(states)], inputs)
        previous = tf.zeros_like(output) if layer.zero_output_for_mask else flat[-1]
        pairs = [*zip(new, flat, strict=False), (output, previous)]
        # [batch] or [batch, 1, ...] -> [batch, 1, ...], of the rank of what it chooses from
        masks = {len(now.shape): mask for now, _ in pairs}
        for rank in masks:
            for _ in range(rank - len(mask.shape)):
                masks[rank] = tf.expand_dims(masks[rank], -1)
        return [_where(tracer, masks[len(now.shape)], now, old) for now, old in pairs]

    specs = [tf.TensorSpec(s.shape, s.dtype, name=f"state{i}") for i, s in enumerate(states)]
    sliced = [
        tf.TensorSpec(shape, value.dtype, name=name)
        for shape, value, name in zip(shapes, slices, ("inputs", "mask"), strict=False)
    ]
    before = dict(tracer.markers)
    function = _trace(tracer, entry, plain, [*specs, sliced[0]])
    output = found["output"]
    if len(slices) == 1:
        return Step(function, output, found["alias"], repeats=False)
    tracer.markers = before  # what the first trace has left, the second leaves again
    repeats = not layer.zero_output_for_mask
    if repeats:
        specs.append(tf.TensorSpec(output.shape, output.dtype, name="output"))
    function = _trace(tracer, entry, masked, [*specs, *sliced])
    return Step(function, output, None, repeats)


def _where(tracer: Tracer, mask: Any, value: Any, other: Any) -> Any:
    """`value` in the valid rows, `other` in the rest, by ONNX's Where (version 9).

    tf2onnx multiplies with the mask and adds, which makes NaN of an infinite value.
    """

    def emit(builder: GraphBuilder, names: Sequence[str], outputs: Sequence[str]) -> None:
        builder.node("Where", names, output=outputs[0])

    (chosen,) = tracer.mark([mask, value, other], [(value.dtype.name, value.shape)], emit)
    return chosen


def _trace(tracer: Tracer, entry: LayerEntry, step: Any, specs: list[Any]) -> Any:
    """Trace a step to a function; markers may stand in its graph."""
    outer = tracer.graph

    def traced(*tensors: Any) -> list[Any]:
        tracer.graph = tf.compat.v1.get_default_graph()
        with tf.name_scope(f"{entry.scope}/"):
            return [tf.identity(result) for result in step(*tensors)]

    try:
        function = tf.function(traced, autograph=False).get_concrete_function(*specs)
    finally:
        tracer.graph = outer
    if any(tf.is_symbolic_tensor(captured) for captured in function.captured_inputs):
        raise NotLowerableError("its cell reads a tensor that is not among its inputs and states")
    return function
