"""What the three recurrent operators share: the record of one, and its weights' layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._registry import NotLowerableError

if TYPE_CHECKING:
    from collections.abc import Sequence


Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class RecurrentOp:
    """A Keras cell as an ONNX recurrent operator.

    Attributes:
        op_type: `LSTM`, `GRU` or `RNN`.
        units: `hidden_size`.
        W: Input weights `[1, gates * units, features]`, gates in ONNX's order.
        R: Recurrence weights `[1, gates * units, units]`.
        B: Both biases `[1, 2 * gates * units]`, `Wb` then `Rb`; None without bias.
        states: How many states the operator carries: h, and c for an LSTM.
        attributes: Further attributes of the node.

    Sequences, states and outputs are of the weights' dtype.
    """

    op_type: str
    units: int
    W: Array
    R: Array
    B: Array | None
    states: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """What it computes in, by its numpy name."""
        return str(self.W.dtype)


# What ONNX Runtime's recurrent operators compute in, or cast from and to.
_DTYPES = ("float16", "float32")


def weight(cell: Any, variable: Any) -> Array:
    """The value of a Keras variable in the dtype that its cell computes in.

    Mixed precision keeps variables in float32, and casts them where they are read.
    """
    with np.errstate(over="ignore"):  # what float16 cannot hold is infinite in Keras, too
        return np.asarray(variable).astype(cell.compute_dtype)


def require_dtype(cell: Any) -> None:
    """Decline a cell that computes in a dtype that the operators do not have."""
    if cell.compute_dtype not in _DTYPES:
        raise NotLowerableError(f"computes in {cell.compute_dtype}, not in {' or '.join(_DTYPES)}")
    if getattr(cell, "quantization_mode", None):
        raise NotLowerableError("quantized weights")


def stack_gates(kernel: Array, order: Sequence[int]) -> Array:
    """A Keras kernel `[rows, gates * units]` as `[1, gates * units, rows]`, gates reordered."""
    gates = np.split(kernel, len(order), axis=-1)
    return np.concatenate([gates[index].T for index in order], axis=0)[None]


def stack_bias(bias: Array, order: Sequence[int]) -> Array:
    """The only bias of a Keras cell: ONNX adds a second one to it, which is zero."""
    return stack_biases([bias, np.zeros_like(bias)], order)


def stack_biases(biases: Sequence[Array] | Array, order: Sequence[int]) -> Array:
    """Keras biases `Wb`, `Rb` of `[gates * units]` as `[1, 2 * gates * units]`, reordered."""
    parts = []
    for bias in biases:
        gates = np.split(bias, len(order))
        parts += [gates[index] for index in order]
    return np.concatenate(parts)[None]
