"""LSTM cell -> ONNX LSTM (version 14).

Keras (keras/src/layers/rnn/lstm.py), with `z = x @ kernel + h @ recurrent_kernel + bias`
split into `z_i, z_f, z_c, z_o`:

    i = recurrent_activation(z_i)        f = recurrent_activation(z_f)
    c' = f * c + i * activation(z_c)     o = recurrent_activation(z_o)
    h' = o * activation(c')

ONNX: the same with f the activation of i, o, f, then g (of c) and h (of the output).
"""

from __future__ import annotations

from typing import Any

from .._registry import registry
from ._activations import attributes, to_onnx
from ._recurrent import RecurrentOp, require_dtype, stack_bias, stack_gates, weight

# Keras [i, f, c, o] -> ONNX [i, o, f, c]
_ORDER = (0, 3, 1, 2)


@registry.register("keras.src.layers.rnn.lstm.LSTMCell", seam="cell", since_opset=14)
def lower(cell: Any) -> RecurrentOp:
    """`keras.layers.LSTMCell` as an ONNX LSTM.

    Raises:
        NotLowerableError: An activation or dtype that the operator does not know.
    """
    require_dtype(cell)
    gate, activation = to_onnx(cell.recurrent_activation), to_onnx(cell.activation)
    return RecurrentOp(
        op_type="LSTM",
        units=cell.units,
        W=stack_gates(weight(cell, cell.kernel), _ORDER),
        R=stack_gates(weight(cell, cell.recurrent_kernel), _ORDER),
        B=stack_bias(weight(cell, cell.bias), _ORDER) if cell.use_bias else None,
        states=2,
        attributes=attributes([gate, activation, activation]),
    )
