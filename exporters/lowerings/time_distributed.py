"""TimeDistributed -> its layer, applied to all steps at once.

Keras maps the layer over time. Where the time axis is dynamic, Keras 3.15 counts the steps
by the batch axis (keras/src/layers/rnn/time_distributed.py) and its trace gives a wrong
shape; called eagerly it is right. Hence a rewrite that the reference uses as well, and that
is compared with the model called eagerly. A layer without state gives the same for all
steps as one batch: `[batch, time, ...]` is seen as `[batch * time, ...]`. Dense contracts the
last axis of any rank and needs no reshaping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._layers import is_recurrent
from .._registry import NotLowerableError, qualified_name, registry

if TYPE_CHECKING:
    from .._tracer import Tracer

_DENSE = "keras.src.layers.core.dense.Dense"


@registry.register(
    "rnnonnx.exporters.legacy._time_distributed.TimeDistributed", seam="rewrite", since_opset=14
)
@registry.register(
    "keras.src.layers.rnn.time_distributed.TimeDistributed", seam="rewrite", since_opset=14
)
def lower(layer: Any, tracer: Tracer, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """`keras.layers.TimeDistributed`: `[batch, time, ...]` to `[batch, time, ...]`.

    Raises:
        NotLowerableError: Its layer takes a mask that has no element of its own, or keeps
            state from step to step.
    """
    import tensorflow as tf

    del tracer, training  # the inner layer is called for inference, through its own seam
    inner = layer.layer
    # private to Keras, and what its TimeDistributed asks
    masked = mask is not None and inner._call_has_mask_arg  # noqa: SLF001
    if masked and len(mask.shape) < 3:
        # [batch, time] is one flag a step, where the layer expects one for each of its steps
        raise NotLowerableError("a mask of [batch, time] reaches its layer")
    held = inner._flatten_layers()  # noqa: SLF001
    if any(is_recurrent(part) and part.stateful for part in held):
        raise NotLowerableError("its layer keeps state from step to step")
    if qualified_name(type(inner)) == _DENSE:
        return inner(inputs)
    sizes = tf.shape(inputs)
    flat = tf.reshape(inputs, tf.concat([[-1], sizes[2:]], axis=0))
    flat = tf.ensure_shape(flat, [None, *inputs.shape[2:]])
    arguments: dict[str, Any] = {}
    if inner._call_has_training_arg:  # noqa: SLF001
        arguments["training"] = False
    if masked:
        arguments["mask"] = tf.reshape(mask, tf.concat([[-1], tf.shape(mask)[2:]], axis=0))
    result = inner(flat, **arguments)
    shaped = tf.reshape(result, tf.concat([sizes[:2], tf.shape(result)[1:]], axis=0))
    return tf.ensure_shape(shaped, [*inputs.shape[:2], *result.shape[1:]])
