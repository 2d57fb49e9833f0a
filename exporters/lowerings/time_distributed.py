"""TimeDistributed -> its layer, applied to all steps at once.

Keras maps the layer over time. Where the time axis is dynamic, Keras 3.15 counts the steps
by the batch axis (keras/src/layers/rnn/time_distributed.py) and its trace gives a wrong
shape; called eagerly it is right. Hence a rewrite that the reference uses as well, and that
is compared with the model called eagerly. A layer without state gives the same for all
steps as one batch: `[batch, time, ...]` is seen as `[batch * time, ...]`, and a mask of
`[batch, time]` as one flag a row. Dense contracts the last axis of any rank and needs no
reshaping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnnonnx.errors import UnsupportedLayerError

from .._compat import layers_of, private
from .._layers import is_recurrent
from .._registry import registry

if TYPE_CHECKING:
    from .._layers import LayerEntry
    from .._tracer import Tracer


@registry.register(
    "rnnonnx.exporters.legacy._time_distributed.TimeDistributed", seam="rewrite", since_opset=14
)
@registry.register(
    "keras.src.layers.rnn.time_distributed.TimeDistributed", seam="rewrite", since_opset=14
)
def lower(layer: Any, tracer: Tracer, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """`keras.layers.TimeDistributed`: `[batch, time, ...]` to `[batch, time, ...]`.

    Raises:
        UnsupportedLayerError: Its layer keeps state from step to step and the number of steps
            is not known, or gives more than one tensor.
    """
    import keras
    import tensorflow as tf

    inner = layer.layer
    if any(is_recurrent(part) and part.stateful for part in (inner, *layers_of(inner))):
        if inputs.shape[1] is None:
            raise _keeps_state(tracer, "and the number of steps is not known")
        # Keras's own loop over a number of steps that is known is right, also in a trace
        return type(layer).call(layer, inputs, training=training, mask=mask)
    if type(inner) is keras.layers.Dense:
        return inner(inputs)
    sizes = tf.shape(inputs)

    def as_rows(value: Any) -> Any:
        rows = tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], axis=0))
        return tf.ensure_shape(rows, [None, *value.shape[2:]])

    arguments: dict[str, Any] = {}
    if private(inner, "_call_has_training_arg"):
        arguments["training"] = False
    if mask is not None and private(inner, "_call_has_mask_arg"):
        arguments["mask"] = as_rows(mask)
    before = dict(tracer.scope.state_mapping)
    result = inner(as_rows(inputs), **arguments)
    if any(before.get(key) is not now for key, now in tracer.scope.state_mapping.items()):
        raise _keeps_state(tracer, "in a variable")
    if not tf.is_tensor(result):
        raise UnsupportedLayerError(
            f"layer {tracer.frames[-1].entry.path!r}: the layer that it applies to each step gives "
            "more than one tensor",
            remedy="have the layer give one, such as an LSTM without return_state",
        )
    shaped = tf.reshape(result, tf.concat([sizes[:2], tf.shape(result)[1:]], axis=0))
    return tf.ensure_shape(shaped, [*inputs.shape[:2], *result.shape[1:]])


def _keeps_state(tracer: Tracer, why: str) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"layer {tracer.frames[-1].entry.path!r}: what it applies to each step keeps state from "
        f"step to step, {why}",
        remedy="give the input a fixed length, keras.Input((10, ...)), if it is a stateful "
        "recurrent layer, or take one that keeps no state",
    )


def refuse_other_calls(entry: LayerEntry, inputs: Any) -> None:
    """Refuse a subclass with a `call` of its own, which may well use that of TimeDistributed.

    Raises:
        UnsupportedLayerError: It is one, and the number of steps is not known to its trace.
    """
    import keras

    wrapper = keras.layers.TimeDistributed
    own = isinstance(entry.layer, wrapper) and type(entry.layer).call is not wrapper.call
    if own and inputs.shape[1] is None:
        raise UnsupportedLayerError(
            f"layer {entry.path!r} is a TimeDistributed with a call() of its own, and Keras traces "
            "that of TimeDistributed wrongly where the number of steps is not known",
            remedy="wrap a keras.layers.TimeDistributed in a layer instead of deriving from it, or "
            "give the input a fixed length, keras.Input((10, ...))",
        )


def refuse_step_flags(entry: LayerEntry, kwargs: dict[str, Any]) -> None:
    """Refuse a mask of one flag a step where a layer of Keras wants one for each of its own steps.

    It comes from a mask `[batch, time]` on a TimeDistributed. Models hand it on, and
    BatchNormalization reads masks in training alone; a layer of the user's own may know what
    to do with one flag a row.
    """
    import keras

    layer = entry.layer
    if isinstance(layer, keras.Model | keras.layers.BatchNormalization):
        return
    if not type(layer).__module__.startswith("keras."):
        return
    masks = [value for name, value in kwargs.items() if name.endswith("mask")]
    if any(mask is not None and len(mask.shape) < 2 for mask in keras.tree.flatten(masks)):
        raise UnsupportedLayerError(
            f"layer {entry.path!r} under a TimeDistributed is given a mask of [batch, time], one "
            "flag a step, which it cannot use",
            expected="no mask, or one of [batch, time, ...] with an element for what the layer "
            "masks in each step",
            remedy="stop the mask before the TimeDistributed, with a layer whose compute_mask() "
            "returns None",
        )
