"""Layers that look back a fixed number of steps: what they have seen becomes a state.

A causal convolution puts zeros before the sequence. To stream it, the zeros become the steps
that came before the chunk: `[batch, reach, channels]`, zeros before the first. So chunk by
chunk it gives what Keras gives for the whole sequence.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ._registry import qualified_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONV1D = "keras.src.layers.convolutional.conv1d.Conv1D"
_ZERO_PADDING1D = "keras.src.layers.reshaping.zero_padding1d.ZeroPadding1D"


def reach(layer: Any) -> int:
    """How many steps before the chunk a layer needs; 0 if it has no such cache.

    `Conv1D(padding="causal")` without strides (of any dilation and number of groups) needs
    `dilation * (kernel - 1)`, `ZeroPadding1D((n, 0))` `n`: in front of a convolution with
    padding "valid" it is the same, and the only causal form of a depthwise one.
    """
    name = qualified_name(type(layer))
    if getattr(layer, "data_format", None) != "channels_last":
        return 0
    if name == _CONV1D and layer.padding == "causal" and layer.strides == (1,):
        return int(layer.dilation_rate[0] * (layer.kernel_size[0] - 1))
    if name == _ZERO_PADDING1D and layer.padding[1] == 0:
        return int(layer.padding[0])
    return 0


def call_with_cache(
    layer: Any, call: Callable[..., Any], inputs: Any, cache: Any
) -> tuple[Any, Any]:
    """Call a layer on a chunk that continues a sequence.

    Args:
        layer: The layer.
        call: Its own `call`.
        inputs: The chunk, `[batch, time, channels]`.
        cache: The `reach` steps before it, `[batch, reach, channels]`.

    Returns:
        The outputs for the chunk `[batch, time, ...]`, and the cache for the next one.
    """
    extended = tf.concat([cache, inputs], axis=1)
    after = extended[:, -cache.shape[1] :]
    if qualified_name(type(layer)) == _ZERO_PADDING1D:
        return extended, after
    with _valid(layer):
        return call(extended), after


@contextlib.contextmanager
def _valid(layer: Any) -> Iterator[None]:
    """The layer without its own padding: what it would pad with is there already."""
    padding = layer.padding
    object.__setattr__(layer, "padding", "valid")
    try:
        yield
    finally:
        object.__setattr__(layer, "padding", padding)
