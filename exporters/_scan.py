"""A recurrent layer without an operator of its own -> ONNX Scan (version 11).

ONNX's Scan carries its states, takes a slice of each sequence a step and stacks what the
steps give, all along axis 0: the sequences are transposed to time-first before it and the
outputs back after it. A mask is one more sequence, and the output that a masked step repeats
one more state.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf

from ._registry import NotLowerableError
from ._scan_step import trace_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._builder import GraphBuilder
    from ._layers import LayerEntry
    from ._tracer import Tracer

_KERAS_LOOPS = (
    keras.layers.RNN.inner_loop,
    keras.layers.LSTM.inner_loop,
    keras.layers.GRU.inner_loop,
)

_MARKED = "pyfunc_"  # how TensorFlow begins the token of a `numpy_function`


@dataclass(frozen=True, slots=True)
class _Port:
    """An input of a step: its name in the trace, dtype and rank."""

    name: str
    dtype: str
    rank: int


def mark_scan(
    tracer: Tracer,
    entry: LayerEntry,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    training: bool,  # noqa: FBT001 - Keras's signature
    before: Any = None,
) -> tuple[Any, Any, Any]:
    """Run a layer over its sequences by a Scan: what its `inner_loop` returns.

    Args:
        tracer: The trace.
        entry: The layer.
        sequences: `[batch, time, ...]`.
        initial_state: A nest of `[batch, ...]`.
        mask: `[batch, time]`, bool; None if no mask reaches the layer.
        training: False.
        before: `[batch, ...]`, what a masked step at the beginning repeats; None for zeros.

    Returns:
        The last output `[batch, ...]`, all outputs `[batch, time, ...]` (only the last one if
        the layer returns no sequences), and the nest of final states.

    Raises:
        NotLowerableError: The layer's loop is not Keras's, it is itself in a loop, or its step
            needs what only the whole trace knows.
    """
    layer = entry.layer
    tracer.require_top()
    if type(layer).inner_loop not in _KERAS_LOOPS:
        raise NotLowerableError("its loop over time is not Keras's")
    masks = [value for value in keras.tree.flatten(mask) if value is not None][:1]
    slices = [sequences, *(tf.cast(value, tf.bool) for value in masks)]
    # a stateful layer hands in its variables
    initial_state = keras.tree.map_structure(tf.convert_to_tensor, initial_state)
    states = keras.tree.flatten(initial_state)
    step = trace_step(tracer, entry, slices, initial_state, training)

    batch, time = sequences.shape[0], sequences.shape[1]
    dtype, shape = step.output.dtype.name, step.output.shape.as_list()[1:]
    results = [(state.dtype.name, state.shape) for state in states]
    carried = []
    if step.repeats or (step.alias is None and not layer.return_sequences):
        if None in shape:
            raise NotLowerableError("the shape of its output is not known")
        if before is None:
            size = tf.concat([tf.shape(sequences)[:1], shape], axis=0)
            before = tf.zeros(size, step.output.dtype)
        carried = [before]
        results.append((dtype, [batch, *shape]))
    if layer.return_sequences:
        results.append((dtype, [batch, time, *shape]))
    names = [*(f"state{index}" for index in range(len(states))), *["output"][: len(carried)]]
    names += ["inputs", "mask"][: len(slices)]
    given = [*states, *carried, *slices]
    emit = functools.partial(
        _emit,
        ports=[
            _Port(name, value.dtype.name, len(value.shape) - any(value is s for s in slices))
            for name, value in zip(names, given, strict=True)
        ],
        states=len(states) + len(carried),
        stacked=len(shape) + 2 if layer.return_sequences else None,
        backwards=layer.go_backwards,
    )
    marked = tracer.mark(given, results, emit, step=step.function)
    finals = marked[: len(states)]
    if layer.return_sequences:
        outputs = marked[-1]
        last = outputs[:, -1]
    else:
        last = marked[-1] if step.alias is None else finals[step.alias]
        outputs = last[:, None]
    return last, outputs, keras.tree.pack_sequence_as(initial_state, finals)


class MergeStepWeightsPass(ir.passes.InPlacePass):
    """Store the weights of a layer once, however often it is called.

    Each call has a body with weights of its own, under the names that all its traces give.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge what has the same name but for the token, and the same value."""
        first: dict[tuple[Any, ...], ir.Value] = {}
        modified = False
        for name, value in list(model.graph.initializers.items()):
            token, slash, rest = name.partition("/")
            if not token.startswith(_MARKED) or not slash or value.const_value is None:
                continue
            array = value.const_value.numpy()
            key = (rest, array.shape, array.dtype.str, array.tobytes())
            kept = first.setdefault(key, value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                del model.graph.initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def as_body(model: onnx.ModelProto, token: str) -> onnx.GraphProto:
    """The graph of a step under names that nothing else has."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = onnx.compose.add_prefix(model, f"{token}/").graph
    graph.name = token
    return graph


def _emit(
    builder: GraphBuilder,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    ports: Sequence[_Port],
    states: int,
    stacked: int | None,
    backwards: bool,
) -> None:
    """Add the Scan.

    Args:
        builder: Where the nodes go; its body is the step.
        inputs: The first states, then the sequences, `[batch, time, ...]`.
        outputs: The final states, then all outputs if they are wanted.
        ports: The inputs that the step must have, in order.
        states: How many of them are states.
        stacked: Rank of all outputs, `[batch, time, ...]`; None if only the last is wanted.
        backwards: Keras's `go_backwards`; Keras, like Scan, gives the outputs in the order in
            which they were computed.
    """
    body = onnx.GraphProto()
    body.CopyFrom(builder.body)
    _complete(body, ports, wanted=len(outputs))
    slices = [
        # [batch, time, ...] -> [time, batch, ...]
        builder.node("Transpose", [name], perm=[1, 0, *range(2, port.rank + 1)])
        for name, port in zip(inputs[states:], ports[states:], strict=True)
    ]
    results = builder.nodes(
        "Scan",
        [*inputs[:states], *slices],
        count=len(outputs),
        num_scan_inputs=len(slices),
        body=onnx.helper.make_attribute("body", body),
        **({"scan_input_directions": [1] * len(slices)} if backwards else {}),
    )
    for result, output in zip(results[:states], outputs, strict=False):
        builder.node("Identity", [result], output=output)
    if stacked is not None:
        # [time, batch, ...] -> [batch, time, ...]
        perm = [1, 0, *range(2, stacked)]
        builder.node("Transpose", [results[-1]], output=outputs[-1], perm=perm)


def _complete(body: onnx.GraphProto, ports: Sequence[_Port], *, wanted: int) -> None:
    """Give a step the inputs and outputs that its Scan must have.

    An input that the step does not read is gone from its graph. An output that is both
    carried along and stacked needs two names.
    """
    found = {_base(value.name): value for value in body.input}
    inputs = []
    for port in ports:
        elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
        shape = [None] * port.rank
        made = onnx.helper.make_tensor_value_info(f"{body.name}/{port.name}", elem, shape)
        inputs.append(found.get(port.name, made))
    del body.input[:]
    body.input.extend(inputs)
    while len(body.output) < wanted:
        again = onnx.ValueInfoProto()
        again.CopyFrom(body.output[-1])
        again.name = f"{body.output[-1].name}/again"
        body.node.append(
            onnx.helper.make_node("Identity", [body.output[-1].name], [again.name], again.name)
        )
        body.output.append(again)


def _base(name: str) -> str:
    """The name that an input had in the trace: `pyfunc_3/state0:0` -> `state0`."""
    return name.rpartition("/")[2].split(":")[0]
