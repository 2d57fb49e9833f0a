"""Masking -> seven nodes for the mask and for the zeros in its place.

A step is valid where a feature differs from `mask_value`; the features of the others become 0.
TensorFlow's trace counts the features twice, and chooses by products with the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._registry import NotLowerableError, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder
    from .._tracer import Tracer

_FLOAT, _BOOL = 1, 9  # onnx.TensorProto.FLOAT, BOOL


@registry.register("keras.src.layers.core.masking.Masking", seam="layer", since_opset=14)
def lower(layer: Any, tracer: Tracer, inputs: Any) -> Any:
    """`keras.layers.Masking`: `[..., features]` to the same, with a mask `[...]` of bool.

    Raises:
        NotLowerableError: The mask value is no number, or the input is not of float32.
    """
    import keras

    if not isinstance(layer.mask_value, int | float) or inputs.dtype != "float32":
        raise NotLowerableError("its mask value is no number, or its input is not float32")

    def emit(builder: GraphBuilder, names: Sequence[str], outputs: Sequence[str]) -> None:
        value = builder.const("mask_value", np.array(layer.mask_value, np.float32))
        differs = builder.node("Not", [builder.node("Equal", [names[0], value])])
        # ONNX reduces no bool before version 20, so the features that differ are counted
        counts = [builder.node("Cast", [differs], to=_FLOAT), builder.axes(-1)]
        valid = builder.node("Cast", [builder.node("ReduceSum", counts, keepdims=1)], to=_BOOL)
        zero = builder.const("zero", np.zeros((), np.float32))
        builder.node("Where", [valid, names[0], zero], output=outputs[0])
        builder.node("Squeeze", [valid, builder.axes(-1)], output=outputs[1])

    results = [("float32", inputs.shape), ("bool", inputs.shape[:-1])]
    outputs, mask = tracer.mark([inputs], results, emit)
    keras.src.backend.set_keras_mask(outputs, mask=mask)
    return outputs
