"""Keras's layers without state as functions of PyTorch, and masks as Keras hands them on.

A class matches exactly: a subclass may have changed the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
import torch

from ._torch_conv import batch_normalization, convolution
from ._torch_recurrent import RECURRENT, bidirectional, recurrent
from ._torch_values import Carried, Value, refused

if TYPE_CHECKING:
    from collections.abc import Callable

Layer: TypeAlias = "Callable[..., Any]"

_L = keras.layers

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "elu": torch.nn.functional.elu,
    "selu": torch.selu,
    "softmax": lambda x: torch.softmax(x, dim=-1),
}
"""Keras's activations that PyTorch has alike, by their names."""

_IDENTITIES = (
    *(_L.Dropout, _L.SpatialDropout1D, _L.GaussianNoise, _L.GaussianDropout, _L.Identity),
    _L.ActivityRegularization,
)
"""Layers that do nothing at inference."""

_MERGES = {
    _L.Add: lambda tensors: sum(tensors[1:], tensors[0]),
    _L.Multiply: lambda tensors: torch.stack(tensors).prod(dim=0),
    _L.Average: lambda tensors: torch.stack(tensors).mean(dim=0),
    _L.Maximum: lambda tensors: torch.stack(tensors).amax(dim=0),
}


def build(layer: Any, path: str) -> Layer:
    """A layer as a function of the states and its arguments.

    Raises:
        UnsupportedLayerError: It has no faithful counterpart here.
    """
    kind = type(layer)
    if kind.__name__ in _OPERATIONS and not isinstance(layer, _L.Layer):
        return _OPERATIONS[kind.__name__](layer, path)
    if isinstance(layer, _L.Layer) and layer.compute_dtype != "float32":
        raise refused(path, f"it computes in {layer.compute_dtype}")
    if kind in RECURRENT:
        return recurrent(layer, path)
    if kind is _L.Bidirectional:
        return bidirectional(layer, path)
    if kind in _IDENTITIES:
        return lambda _, x: x
    if kind in _MERGES or kind is _L.Concatenate:
        return _merge(layer, path)
    if kind in _BUILDERS:
        return _BUILDERS[kind](layer, path)
    raise refused(path, f"{kind.__name__} is none of the layers that are")


def weight(variable: Any) -> Any:
    """A variable of Keras as a tensor of its own."""
    return torch.from_numpy(np.array(variable))


def activation(layer: Any, path: str) -> Callable[[Any], Any]:
    """A layer's activation.

    Raises:
        UnsupportedLayerError: PyTorch has none that is known to be the same.
    """
    name = getattr(layer.activation, "__name__", repr(layer.activation))
    same = getattr(keras.activations, name, None) is layer.activation
    if not same or name not in ACTIVATIONS:
        raise refused(path, f"its activation {name!r} is none of the activations that are")
    return ACTIVATIONS[name]


def _dense(layer: Any, path: str) -> Layer:
    module = torch.nn.Linear(*layer.kernel.shape, bias=layer.use_bias)
    # Keras [in, out] -> PyTorch [out, in]
    module.weight = torch.nn.Parameter(weight(layer.kernel).T.contiguous())
    if layer.use_bias:
        module.bias = torch.nn.Parameter(weight(layer.bias))
    apply = activation(layer, path)
    return lambda _, x: Value(apply(module(x.tensor)), x.mask)


def _embedding(layer: Any, _: str) -> Layer:
    module = torch.nn.Embedding.from_pretrained(weight(layer.embeddings))

    def call(_: Carried, x: Value) -> Value:
        tokens = x.tensor.long()
        return Value(module(tokens), tokens != 0 if layer.mask_zero else None)

    return call


def _masking(layer: Any, _: str) -> Layer:
    def call(_: Carried, x: Value) -> Value:
        mask = (x.tensor != layer.mask_value).any(dim=-1)
        return Value(x.tensor * mask.unsqueeze(-1), mask)

    return call


def _convolution(layer: Any, path: str) -> Layer:
    return convolution(layer, path, activation(layer, path))


def _normalization(layer: Any, path: str) -> Layer:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if getattr(layer, "rms_scaling", False):
        raise refused(path, "it scales by the root of the mean square")
    gamma = weight(layer.gamma) if layer.scale else None
    beta = weight(layer.beta) if layer.center else None

    def call(_: Carried, x: Value) -> Value:
        if axes not in ([-1], [x.tensor.ndim - 1]):
            raise refused(path, "it normalises over other axes than the last")
        size = x.tensor.shape[-1:]
        made = torch.nn.functional.layer_norm(x.tensor, size, gamma, beta, layer.epsilon)
        return Value(made, x.mask)

    return call


def _activation(layer: Any, path: str) -> Layer:
    apply = activation(layer, path)
    return lambda _, x: Value(apply(x.tensor), x.mask)


def _relu(layer: Any, path: str) -> Layer:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise refused(path, "it is another ReLU than max(x, 0)")
    return lambda _, x: Value(torch.relu(x.tensor), x.mask)


def _softmax(layer: Any, path: str) -> Layer:
    if layer.axis not in (-1, [-1]):
        raise refused(path, "it is over another axis than the last")

    def call(_: Carried, x: Value) -> Value:
        if x.mask is not None:
            raise refused(path, "its input has a mask, which changes what it computes")
        return Value(torch.softmax(x.tensor, dim=-1))

    return call


def _time_distributed(layer: Any, path: str) -> Layer:
    inner = build(layer.layer, f"{path}/{layer.layer.name}")
    if type(layer.layer) not in (_L.Dense, _L.Activation, _L.LayerNormalization, *_IDENTITIES):
        raise refused(path, f"it holds a {type(layer.layer).__name__}")
    # NOTE: each of these looks at the last axis alone, so that steps need not be taken apart
    return lambda carried, x: Value(inner(carried, Value(x.tensor)).tensor, x.mask)


def _flatten(layer: Any, path: str) -> Layer:
    if layer.data_format != "channels_last":
        raise refused(path, "it has its channels first")
    return lambda _, x: Value(x.tensor.reshape(x.tensor.shape[0], -1))


def _merge(layer: Any, path: str) -> Layer:
    def call(_: Carried, *args: Any) -> Value:
        values = keras.tree.flatten(args)
        if any(value.mask is not None for value in values):
            raise refused(path, "its inputs have masks, which it would merge")
        tensors = [value.tensor for value in values]
        if type(layer) is _L.Concatenate:
            return Value(torch.cat(tensors, dim=layer.axis))
        return Value(_MERGES[type(layer)](tensors))

    return call


def _not_equal(_: Any, path: str) -> Layer:
    def call(_: Carried, x: Value, other: Any) -> Value:
        if isinstance(other, Value):
            raise refused(path, "it compares two tensors")
        return Value(x.tensor != other)

    return call


def _any(operation: Any, _: str) -> Layer:
    return lambda _, x: Value(x.tensor.any(dim=operation.axis, keepdim=operation.keepdims))


_OPERATIONS = {"NotEqual": _not_equal, "Any": _any}
"""Operations of Keras's by their class: those by which its graphs make masks of inputs."""

_BUILDERS: dict[type, Callable[[Any, str], Layer]] = {
    _L.Dense: _dense,
    _L.Embedding: _embedding,
    _L.Masking: _masking,
    _L.Conv1D: _convolution,
    _L.BatchNormalization: batch_normalization,
    _L.LayerNormalization: _normalization,
    _L.Activation: _activation,
    _L.ReLU: _relu,
    _L.Softmax: _softmax,
    _L.TimeDistributed: _time_distributed,
    _L.Flatten: _flatten,
}
