"""SimpleRNN cell -> ONNX RNN (version 14).

Keras (keras/src/layers/rnn/simple_rnn.py) and ONNX agree:

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._registry import registry
from ._activations import attributes, to_onnx
from ._recurrent import RecurrentOp, require_float32, stack_biases, stack_gates, weight


@registry.register("keras.src.layers.rnn.simple_rnn.SimpleRNNCell", seam="cell", since_opset=14)
def lower(cell: Any) -> RecurrentOp:
    """`keras.layers.SimpleRNNCell` as an ONNX RNN.

    Raises:
        NotLowerableError: An activation or dtype that the operator does not know.
    """
    require_float32(cell)
    bias = None
    if cell.use_bias:
        keras_bias = weight(cell.bias)
        bias = stack_biases([keras_bias, np.zeros_like(keras_bias)], (0,))
    return RecurrentOp(
        op_type="RNN",
        units=cell.units,
        W=stack_gates(weight(cell.kernel), (0,)),
        R=stack_gates(weight(cell.recurrent_kernel), (0,)),
        B=bias,
        attributes=attributes([to_onnx(cell.activation)]),
    )
