"""The seam `inner_loop`: what takes the place of Keras's loop over time in a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ._registry import NotLowerableError, qualified_name
from ._scan import mark_scan
from .lowerings._loop import RecurrentLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._layers import LayerEntry
    from ._tracer import Frame, Tracer
    from .lowerings._recurrent import RecurrentOp

# The layers whose `inner_loop` is Keras's own, so that their cell says all there is to say.
_KERAS_LOOPS = frozenset(
    f"keras.src.layers.rnn.{name}"
    for name in ("rnn.RNN", "lstm.LSTM", "gru.GRU", "simple_rnn.SimpleRNN")
)
_STACK = "keras.src.layers.rnn.stacked_rnn_cells.StackedRNNCells"


def lower_cells(tracer: Tracer, entry: LayerEntry) -> tuple[RecurrentOp, ...]:
    """The operators of a layer's cell or stacked cells; none if Keras's loop stays."""
    layer = entry.layer
    if not tracer.lowering or qualified_name(type(layer)) not in _KERAS_LOOPS:
        return ()
    stacked = qualified_name(type(layer.cell)) == _STACK
    ops: list[RecurrentOp] = []
    for cell in layer.cell.cells if stacked else [layer.cell]:
        lowering = tracer.registry.find(type(cell), "cell", tracer.opset)
        if lowering is None:
            tracer.declined[entry.path] = f"no lowering for {type(cell).__name__}"
            return ()
        try:
            ops.append(lowering.function(cell))
        except NotLowerableError as reason:
            tracer.declined[entry.path] = str(reason)
            return ()
    return tuple(ops)


def run_loop(
    tracer: Tracer,
    frame: Frame,
    ops: tuple[RecurrentOp, ...],
    inner_loop: Callable[..., Any],
    arguments: tuple[Any, Any, Any, bool],
) -> tuple[Any, Any, Any]:
    """What a layer's `inner_loop` returns, by the best form that the file can have.

    Operators if there are any for its cell, else a Scan around one step, else the loop as
    Keras wrote it. The reference takes the last.

    Args:
        tracer: The trace.
        frame: The call of the layer.
        ops: From `lower_cells`.
        inner_loop: The layer's own.
        arguments: Of `inner_loop`: sequences, initial state, mask, training.

    Returns:
        The last output, all outputs, the final states.
    """
    entry = frame.entry
    sequences, initial_state, mask, training = arguments
    declined: list[str] = []
    if ops:
        try:
            return _mark_operators(tracer, frame, ops, sequences, initial_state, mask)
        except NotLowerableError as reason:
            declined.append(str(reason))
    result = None
    if tracer.lowering:
        try:
            result = mark_scan(tracer, entry, sequences, initial_state, mask, training)
        except NotLowerableError as reason:
            why = [tracer.declined.get(entry.path, ""), *declined]
            declined = [*filter(None, why), f"no Scan: {reason}"]
    if declined:
        tracer.declined[entry.path] = "; ".join(declined)
    if result is None:
        result = inner_loop(sequences, initial_state, mask, training=training)
    masked = any(m is not None for m in keras.tree.flatten(mask))
    if _continues(tracer, frame, masked=masked):
        stacked = qualified_name(type(entry.layer.cell)) == _STACK
        own = initial_state[-1] if stacked else initial_state
        result = _continue(result, keras.tree.flatten(own)[0], mask)
    return result


def _continues(tracer: Tracer, frame: Frame, *, masked: bool) -> bool:
    """Whether a masked step at the beginning repeats the output of the chunk before.

    So it is for a layer that begins anew in Keras and whose state was lifted to stream it.
    The output of the cells that ONNX knows is their h, which the state holds.
    """
    layer = frame.entry.layer
    cell = layer.cell
    cells = cell.cells if qualified_name(type(cell)) == _STACK else [cell]
    known = all(tracer.registry.find(type(part), "cell", tracer.opset) for part in cells)
    return masked and frame.lifted and known and not layer.zero_output_for_mask


def _mark_operators(
    tracer: Tracer,
    frame: Frame,
    ops: tuple[RecurrentOp, ...],
    sequences: Any,
    initial_state: Any,
    mask: Any,
) -> tuple[Any, Any, Any]:
    layer = frame.entry.layer
    masks = [item for item in keras.tree.flatten(mask) if item is not None]
    if len(masks) > 1 or any(len(item.shape) != 2 for item in masks):
        raise NotLowerableError("its mask is not [batch, time]")
    dtype = ops[0].dtype  # Keras runs no stack whose cells compute in different dtypes
    batch, time, units = sequences.shape[0], sequences.shape[1], ops[-1].units
    loop = RecurrentLoop(
        ops,
        backwards=layer.go_backwards,
        masked=bool(masks),
        zero_output=layer.zero_output_for_mask,
        continued=_continues(tracer, frame, masked=bool(masks)),
    )
    sizes = [op.units for op in ops for _ in range(op.states)]
    outputs = [(dtype, [batch, time, units]), (dtype, [batch, units])]
    outputs += [(dtype, [batch, size]) for size in sizes]
    masks = [tf.cast(item, tf.bool) for item in masks]
    zeros = frame.own_state and not frame.lifted
    states = [] if zeros else keras.tree.flatten(initial_state)
    # a cell may compute in another dtype than its layer, which has cast the sequences to its own
    sequences, *states = (tf.cast(value, dtype) for value in (sequences, *states))
    sequence, last, *finals = tracer.mark([sequences, *masks, *states], outputs, loop.emit)
    return last, sequence, keras.tree.pack_sequence_as(initial_state, finals)


def _continue(result: tuple[Any, Any, Any], before: Any, mask: Any) -> tuple[Any, Any, Any]:
    """Put the initial h, `before`, where Keras gives zeros until the first valid step."""
    last, outputs, states = result
    valid = tf.cast(next(m for m in keras.tree.flatten(mask) if m is not None), tf.int32)
    begun = tf.cumsum(valid, axis=1)[:, :, None] > 0
    last = tf.where(tf.reduce_any(begun, axis=1), last, before)
    return last, tf.where(begun, outputs, before[:, None]), states
