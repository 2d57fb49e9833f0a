"""Layers that look back a fixed number of steps: what they have seen becomes a state.

A causal convolution puts zeros before the sequence. To stream it, the zeros become the steps
that came before the chunk: `[batch, reach, channels]`, zeros before the first. So chunk by
chunk it gives what Keras gives for the whole sequence.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def reach(layer: Any) -> int:
    """How many steps before the chunk a layer needs; 0 if it has no such cache.

    `Conv1D(padding="causal")` without strides (of any dilation and number of groups) needs
    `dilation * (kernel - 1)`, `ZeroPadding1D((n, 0))` `n`: in front of a convolution with
    padding "valid" it is the same, and the only causal form of a depthwise one.
    """
    if getattr(layer, "data_format", None) != "channels_last":
        return 0
    # NOTE: of these classes exactly: a subclass may compute something else
    if type(layer) is keras.layers.Conv1D and layer.padding == "causal" and layer.strides == (1,):
        return int(layer.dilation_rate[0] * (layer.kernel_size[0] - 1))
    if only_pads(layer) and layer.padding[1] == 0:
        return int(layer.padding[0])
    return 0


def only_pads(layer: Any) -> bool:
    """Whether a layer gives its inputs with steps before or behind them, and no more."""
    return type(layer) is keras.layers.ZeroPadding1D


def extend(inputs: Any, cache: Any) -> tuple[Any, Any]:
    """A chunk that continues a sequence, with the steps before it.

    Args:
        inputs: The chunk, `[batch, time, channels]`.
        cache: The `reach` steps before it, `[batch, reach, channels]`.

    Returns:
        `[batch, reach + time, channels]`, and the cache for the next chunk.
    """
    extended = tf.concat([cache, inputs], axis=1)
    return extended, extended[:, -cache.shape[1] :]
