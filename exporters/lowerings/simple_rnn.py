"""SimpleRNN cell -> ONNX RNN (version 14).

Keras (keras/src/layers/rnn/simple_rnn.py) and ONNX agree:

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)
"""

from __future__ import annotations

from typing import Any

from .._registry import registry
from ._activations import attributes, to_onnx
from ._recurrent import RecurrentOp, require_dtype, stack_bias, stack_gates, weight


@registry.register("keras.src.layers.rnn.simple_rnn.SimpleRNNCell", seam="cell", since_opset=14)
def lower(cell: Any) -> RecurrentOp:
    """`keras.layers.SimpleRNNCell` as an ONNX RNN.

    Raises:
        NotLowerableError: An activation or dtype that the operator does not know.
    """
    require_dtype(cell)
    return RecurrentOp(
        op_type="RNN",
        units=cell.units,
        W=stack_gates(weight(cell, cell.kernel), (0,)),
        R=stack_gates(weight(cell, cell.recurrent_kernel), (0,)),
        B=stack_bias(weight(cell, cell.bias), (0,)) if cell.use_bias else None,
        attributes=attributes([to_onnx(cell.activation)]),
    )
