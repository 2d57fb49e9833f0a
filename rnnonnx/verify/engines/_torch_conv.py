"""Keras's Conv1D and BatchNormalization as functions of PyTorch.

Keras has channels last, `[batch, time, channels]`, PyTorch second; Keras's kernels are
`[size, in, out]`, PyTorch's `[out, in, size]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import RunError
from ._torch_values import Carried, Value, refused

if TYPE_CHECKING:
    from collections.abc import Callable


def convolution(layer: Any, path: str, apply: Callable[[Any], Any]) -> Callable[..., Any]:
    """A Conv1D.

    Args:
        layer: The layer.
        path: Its path, for messages.
        apply: Its activation.

    Raises:
        UnsupportedLayerError: It has its channels first.
        RunError: (of the function) The sequence is shorter than what the kernel looks at.
    """
    if layer.data_format != "channels_last":
        raise refused(path, "it has its channels first")
    (size,), (stride,), (dilation,) = layer.kernel_size, layer.strides, layer.dilation_rate
    # Keras [size, in, out] -> PyTorch [out, in, size]
    kernel = torch.from_numpy(np.array(layer.kernel).transpose(2, 1, 0).copy())
    bias = torch.from_numpy(np.array(layer.bias)) if layer.use_bias else None
    width = (size - 1) * dilation + 1

    def call(_: Carried, x: Value) -> Value:
        steps = x.tensor.shape[1]
        ends = _padding(layer.padding, steps, width, stride)
        if steps + sum(ends) < width:
            raise RunError(f"layer {path!r}: too few steps for a convolution, {steps} of {width}")
        # [batch, time, in] -> [batch, in, time], padded in time
        padded = torch.nn.functional.pad(x.tensor.transpose(1, 2), ends)
        made = torch.nn.functional.conv1d(
            padded, kernel, bias, stride=stride, dilation=dilation, groups=layer.groups
        )
        # NOTE: Keras's convolutions do not hand on masks
        return Value(apply(made.transpose(1, 2)))

    return call


def _padding(kind: str, steps: int, width: int, stride: int) -> tuple[int, int]:
    """How many zeros are put before and behind, as TensorFlow does."""
    if kind == "causal":
        return width - 1, 0
    if kind == "valid":
        return 0, 0
    outputs = -(-steps // stride)
    total = max((outputs - 1) * stride + width - steps, 0)
    return total // 2, total - total // 2


def batch_normalization(layer: Any, _: str) -> Callable[..., Any]:
    """A BatchNormalization, by the mean and variance that it has learned."""
    mean, variance = (
        torch.from_numpy(np.array(value)) for value in (layer.moving_mean, layer.moving_variance)
    )
    gamma = torch.from_numpy(np.array(layer.gamma)) if layer.scale else None
    beta = torch.from_numpy(np.array(layer.beta)) if layer.center else None

    def call(_: Carried, x: Value) -> Value:
        made = torch.nn.functional.batch_norm(
            x.tensor.movedim(layer.axis, 1), mean, variance, gamma, beta, eps=layer.epsilon
        )
        return Value(made.movedim(1, layer.axis), x.mask)

    return call
