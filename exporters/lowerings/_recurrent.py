"""What the three recurrent operators share: the record of one, and its nodes.

Keras is batch-first, `[batch, time, features]`; ONNX's operators are time-first (ONNX
Runtime refuses `layout=1`), with a direction axis on weights and states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._registry import NotLowerableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder

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
    """

    op_type: str
    units: int
    W: Array
    R: Array
    B: Array | None
    states: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)


def weight(variable: Any) -> Array:
    """The value of a Keras variable, as float32 or not at all.

    Raises:
        NotLowerableError: The variable has another dtype.
    """
    value = np.asarray(variable)
    if value.dtype != np.float32:
        raise NotLowerableError(f"weights of dtype {value.dtype}, not float32")
    return value


def require_float32(cell: Any) -> None:
    """Decline a cell that computes in another dtype than float32."""
    if cell.compute_dtype != "float32":
        raise NotLowerableError(f"computes in {cell.compute_dtype}, not float32")
    if getattr(cell, "quantization_mode", None):
        raise NotLowerableError("quantized weights")


def stack_gates(kernel: Array, order: Sequence[int]) -> Array:
    """A Keras kernel `[rows, gates * units]` as `[1, gates * units, rows]`, gates reordered."""
    gates = np.split(kernel, len(order), axis=-1)
    return np.concatenate([gates[index].T for index in order], axis=0)[None]


def stack_biases(biases: Sequence[Array], order: Sequence[int]) -> Array:
    """Keras biases `Wb`, `Rb` of `[gates * units]` as `[1, 2 * gates * units]`, reordered."""
    parts = []
    for bias in biases:
        gates = np.split(bias, len(order))
        parts += [gates[index] for index in order]
    return np.concatenate(parts)[None]


def emit(
    builder: GraphBuilder,
    op: RecurrentOp,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    backwards: bool = False,
) -> None:
    """Add the nodes of one recurrent operator.

    Args:
        builder: Where the nodes go.
        op: The operator.
        inputs: The sequences `[batch, time, features]`, then either no state (zeros) or all
            initial states `[batch, units]`.
        outputs: Names for all outputs `[batch, time, units]`, then each final state
            `[batch, units]`. What nothing uses is pruned later.
        backwards: Keras's `go_backwards`: read from the last step to the first, and give the
            outputs in the order in which they were computed.
    """
    sequences, *initial = inputs
    # [batch, time, features] -> [time, batch, features]
    time_first = builder.node("Transpose", [sequences], perm=[1, 0, 2])
    weights = [builder.const("W", op.W), builder.const("R", op.R)]
    bias = builder.const("B", op.B) if op.B is not None else ""
    # [batch, units] -> [1 direction, batch, units]
    states = [builder.node("Unsqueeze", [state, builder.axes(0)]) for state in initial]
    optional = [bias, "", *states]  # "" is sequence_lens
    while optional and not optional[-1]:
        optional.pop()
    y, *finals = builder.nodes(
        op.op_type,
        [time_first, *weights, *optional],
        count=1 + op.states,
        hidden_size=op.units,
        **({"direction": "reverse"} if backwards else {}),
        **op.attributes,
    )
    # [time, 1 direction, batch, units] -> [time, batch, units] -> [batch, time, units]
    squeezed = builder.node("Squeeze", [y, builder.axes(1)])
    if backwards:
        # ONNX leaves the outputs at the steps they belong to; Keras's first is the last step.
        ends = [builder.axes(-1), builder.axes(np.iinfo(np.int64).min)]
        squeezed = builder.node("Slice", [squeezed, *ends, builder.axes(0), builder.axes(-1)])
    builder.node("Transpose", [squeezed], output=outputs[0], perm=[1, 0, 2])
    for final, output in zip(finals, outputs[1:], strict=True):
        # [1 direction, batch, units] -> [batch, units]
        builder.node("Squeeze", [final, builder.axes(0)], output=output)
