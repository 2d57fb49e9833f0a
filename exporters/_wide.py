"""Layers of Keras that look beyond one step of a sequence, and have no state to do it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import layers

from ._caches import only_pads, reach
from ._layers import is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._layers import LayerEntry, LayerTable
    from ._states import StatefulCall

# NOTE: these classes exactly: a subclass may do something else. The comparison of Keras with
# itself in _streaming.py is there for all that is not known here.
_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_POOLS = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
)
_GLOBAL_POOLS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
_ATTENTIONS = (
    layers.Attention,
    layers.AdditiveAttention,
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
)
_OVER_AXES = (
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
    layers.Softmax,
)


def looks_beyond(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, padded: bool
) -> str | None:
    """Why a layer of Keras gives other values for chunks than for the whole sequence.

    Args:
        layer: The layer.
        args: What it is called with in a trace; an axis 1 without a size is time.
        kwargs: Likewise.
        padded: Whether a layer of the model puts what it has seen before the chunk, so that a
            convolution without padding may look at that.

    Returns:
        What the layer does, in words; None if nothing is known against it.
    """
    kind = type(layer)
    given = keras.tree.flatten(args)
    if kind in _ATTENTIONS:
        # query and value, in a list or one by one
        value = kwargs["value"] if "value" in kwargs else given[1]
        wide = _in_time(value) and _from_same_input(given[0], value)
        return "attends to all steps" if wide else None
    if not given or not _in_time(given[0]):
        return None
    shape = given[0].shape
    if kind in _OVER_AXES:
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        over_time = any(axis % len(shape) == 1 for axis in axes)
        return "normalizes over all steps" if over_time else None
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    if kind in _CONVOLUTIONS:
        return _convolution(layer, padded=padded)
    if kind in _POOLS:
        return "pools several steps" if max(layer.pool_size[0], layer.strides[0]) > 1 else None
    known = {
        "pools all steps": kind in _GLOBAL_POOLS,
        "puts all steps into one vector": kind is layers.Flatten and set(shape[2:]) != {1},
        "normalizes over all steps": kind is layers.GroupNormalization,
        "puts steps behind the sequence": only_pads(layer) and layer.padding[1] > 0,
        "cuts steps off the sequence": kind is layers.Cropping1D and any(layer.cropping),
    }
    return next((what for what, does in known.items() if does), None)


def _in_time(value: Any) -> bool:
    """Whether a tensor is `[batch, time, ...]`, with its time left open."""
    shape = getattr(value, "shape", None)
    return shape is not None and shape.rank is not None and shape.rank > 2 and shape[1] is None


def _from_same_input(query: Any, value: Any) -> bool:
    """Whether two tensors come from one input: a context of its own is no part of the stream."""
    if not isinstance(query, tf.Tensor) or not isinstance(value, tf.Tensor):
        return True
    return bool(_inputs_of(query) & _inputs_of(value))


def _inputs_of(tensor: Any) -> set[str]:
    """Names of the model's sequences that a tensor of a trace is computed from."""
    found, seen, waiting = set(), set(), [tensor]
    while waiting:
        operation = waiting.pop().op
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type == "Placeholder":
            if _in_time(operation.outputs[0]) or _is_tokens(operation.outputs[0]):
                found.add(operation.name)
        else:
            waiting += operation.inputs
    return found


def _is_tokens(tensor: Any) -> bool:
    return tensor.shape.rank == 2 and tensor.shape[1] is None


def _convolution(layer: Any, *, padded: bool) -> str | None:
    if layer.strides[0] > 1:
        return "has strides, and gives fewer steps than it takes"
    if layer.kernel_size[0] == 1 or reach(layer):
        return None
    if layer.padding == "same":
        return 'looks at later steps (padding "same")'
    return None if padded else 'gives fewer steps than it takes (padding "valid")'


def suspects(table: LayerTable, calls: Sequence[StatefulCall]) -> tuple[str, ...]:
    """Layers whose answers may depend on where a sequence is cut, in words."""
    found = [repr(entry.path) for entry in table if _unknown(entry) and not _per_step(entry)]
    for call in calls:
        if call.per_step:
            continue
        if call.masked:
            # a masked step repeats the output before it, which a chunk that begins with it lacks
            found.append(f"{call.entry.path!r} (masked)")
        if call.index and is_recurrent(call.entry.layer) and call.entry.layer.stateful:
            # the second call goes on from the state of the first, at the end of each chunk
            found.append(f"{call.entry.path!r} (stateful and called more than once)")
    return tuple(dict.fromkeys(found))


def _unknown(entry: LayerEntry) -> bool:
    """Whether a layer may look beyond a step, for all that is known of it."""
    layer = entry.layer
    if isinstance(layer, keras.Model | layers.RNN | layers.TimeDistributed):
        return False  # of those the parts are asked, or the states
    if not type(layer).__module__.startswith("keras."):
        return not isinstance(layer, layers.Wrapper) and not _is_cell(entry)
    if isinstance(layer, layers.Lambda | layers.Bidirectional):
        return True
    if reach(layer) or max(getattr(layer, "kernel_size", None) or (1,)) == 1:
        shaping = layers.Reshape | layers.Permute | layers.RepeatVector | layers.UpSampling1D
        return isinstance(layer, (*_ATTENTIONS, *_POOLS, *_GLOBAL_POOLS, shaping, layers.Flatten))
    return True


def _is_cell(entry: LayerEntry) -> bool:
    return any(isinstance(holder.layer, layers.RNN) for holder in _holders(entry))


def _per_step(entry: LayerEntry) -> bool:
    return any(isinstance(holder.layer, layers.TimeDistributed) for holder in _holders(entry))


def _holders(entry: LayerEntry) -> Iterator[LayerEntry]:
    while entry.parent is not None:
        entry = entry.parent
        yield entry
