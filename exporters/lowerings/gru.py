"""GRU cell -> ONNX GRU (version 14).

Keras (keras/src/layers/rnn/gru.py), gates `z, r, h` as in ONNX:

    z = recurrent_activation(x @ W_z + h @ R_z + b_z)
    r = recurrent_activation(x @ W_r + h @ R_r + b_r)
    reset_after=False:  g = activation(x @ W_h + (r * h) @ R_h + b_h)
    reset_after=True:   g = activation(x @ W_h + Wb_h + r * (h @ R_h + Rb_h))
    h' = z * h + (1 - z) * g

ONNX: `linear_before_reset=1` is `reset_after=True`, which has a bias of its own for each of
the two products, `bias` of `[2, 3 * units]`.
"""

from __future__ import annotations

from typing import Any

from .._registry import registry
from ._activations import attributes, to_onnx
from ._recurrent import RecurrentOp, require_dtype, stack_bias, stack_biases, stack_gates, weight

# Keras [z, r, h] -> ONNX [z, r, h]
_ORDER = (0, 1, 2)


@registry.register("keras.src.layers.rnn.gru.GRUCell", seam="cell", since_opset=14)
def lower(cell: Any) -> RecurrentOp:
    """`keras.layers.GRUCell` as an ONNX GRU.

    Raises:
        NotLowerableError: An activation or dtype that the operator does not know.
    """
    require_dtype(cell)
    gate, activation = to_onnx(cell.recurrent_activation), to_onnx(cell.activation)
    bias = None
    if cell.use_bias:
        value = weight(cell, cell.bias)
        bias = stack_biases(value, _ORDER) if cell.reset_after else stack_bias(value, _ORDER)
    return RecurrentOp(
        op_type="GRU",
        units=cell.units,
        W=stack_gates(weight(cell, cell.kernel), _ORDER),
        R=stack_gates(weight(cell, cell.recurrent_kernel), _ORDER),
        B=bias,
        attributes={
            "linear_before_reset": int(cell.reset_after),
            **attributes([gate, activation]),
        },
    )
