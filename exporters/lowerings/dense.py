"""Dense -> ONNX Gemm (version 13) for a matrix, MatMul and Add for anything of higher rank.

Keras contracts the last axis of `[..., input_dim]` with `kernel` `[input_dim, units]` and adds
`bias` `[units]`. TensorFlow traces the higher ranks to a Tensordot, some ten nodes of shape
arithmetic; ONNX's MatMul broadcasts over leading axes by itself. The activation stays with
TensorFlow's trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._registry import NotLowerableError, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder
    from .._tracer import Tracer


@registry.register("keras.src.layers.core.dense.Dense", seam="layer", since_opset=14)
def lower(layer: Any, tracer: Tracer, inputs: Any, training: Any = None) -> Any:
    """`keras.layers.Dense`: `[..., input_dim]` to `[..., units]`.

    Raises:
        NotLowerableError: A quantized layer, or an input that was not cast to what it computes in.
    """
    del training  # Dense computes the same in both
    if getattr(layer, "quantization_mode", None):
        raise NotLowerableError("quantized weights")
    dtype = layer.compute_dtype
    if inputs.dtype != dtype:
        raise NotLowerableError(f"computes in {dtype}, and its input is {inputs.dtype.name}")
    kernel = tracer.read(lambda: layer.kernel, dtype)
    bias = tracer.read(lambda: layer.bias, dtype) if layer.use_bias else None
    matrix = len(inputs.shape) == 2

    def emit(builder: GraphBuilder, names: Sequence[str], outputs: Sequence[str]) -> None:
        weights = builder.const("kernel", kernel)
        if bias is None:
            builder.node("MatMul", [names[0], weights], output=outputs[0])
        elif matrix:
            builder.node(
                "Gemm", [names[0], weights, builder.const("bias", bias)], output=outputs[0]
            )
        else:
            product = builder.node("MatMul", [names[0], weights])
            builder.node("Add", [product, builder.const("bias", bias)], output=outputs[0])

    (result,) = tracer.mark([inputs], [(dtype, [*inputs.shape[:-1], layer.units])], emit)
    return result if layer.activation is None else layer.activation(result)
