"""Keras activations as the activation functions of ONNX's recurrent operators.

Source: the table "Activation functions" of ONNX RNN, LSTM and GRU (version 14), and
keras/src/activations/activations.py (Keras 3) for each definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._registry import NotLowerableError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Activation:
    """An ONNX activation function with the parameters that Keras's definition asks for.

    Attributes:
        name: ONNX's name.
        alpha: Value for `activation_alpha`; None where the function takes none.
        beta: Value for `activation_beta`; None where the function takes none.
        default: Whether alpha and beta are what ONNX assumes without the attributes.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    default: bool = True


# NOTE: Softplus is missing on purpose: ONNX Runtime 1.32 computes log(exp(x) + 1), which is
# infinite beyond 88, where Keras gives x.
_BY_KERAS_NAME = {
    "tanh": Activation("Tanh"),
    "sigmoid": Activation("Sigmoid"),
    "relu": Activation("Relu"),
    "softsign": Activation("Softsign"),
    # NOTE: Keras 3 is relu6(x + 3) / 6; Keras 2 and ONNX's default had 0.2 x + 0.5.
    "hard_sigmoid": Activation("HardSigmoid", 1 / 6, 0.5, default=False),
    "elu": Activation("Elu", 1.0),
    # Keras's negative_slope is 0.2, ONNX's default 0.01.
    "leaky_relu": Activation("LeakyRelu", 0.2, default=False),
    # NOTE: ONNX gives Affine no defaults that ONNX Runtime's providers agree on.
    "linear": Activation("Affine", 1.0, 0.0, default=False),
}


# ONNX's own default: CUDA takes the operator with it.
_KERAS2_HARD_SIGMOID = Activation("HardSigmoid", 0.2, 0.5)


def to_onnx(function: Any) -> Activation:
    """The ONNX activation that computes what a Keras activation computes.

    Args:
        function: `cell.activation` or `cell.recurrent_activation`.

    Raises:
        NotLowerableError: ONNX's recurrent operators do not know the function.
    """
    import keras

    from ..legacy import keras2_hard_sigmoid

    if function is keras2_hard_sigmoid:
        return _KERAS2_HARD_SIGMOID
    for name, activation in _BY_KERAS_NAME.items():
        if function is getattr(keras.activations, name):
            return activation
    shown = getattr(function, "__name__", type(function).__name__)
    raise NotLowerableError(f"ONNX's recurrent operators have no activation {shown!r}")


def attributes(activations: Sequence[Activation]) -> dict[str, Any]:
    """The attributes `activations`, `activation_alpha` and `activation_beta`.

    ONNX consumes alpha and beta in the order of the functions that take them, so once one
    function needs a value, all that take one get it. Without need they are left out: CUDA
    gives a node to the CPU as soon as the attributes are there.
    """
    found: dict[str, Any] = {"activations": [activation.name for activation in activations]}
    if any(not activation.default for activation in activations):
        alphas = [a.alpha for a in activations if a.alpha is not None]
        betas = [a.beta for a in activations if a.beta is not None]
        if alphas:
            found["activation_alpha"] = alphas
        if betas:
            found["activation_beta"] = betas
    return found
