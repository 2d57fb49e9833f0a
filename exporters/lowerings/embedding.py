"""Embedding -> ONNX Gather (version 13).

Keras looks up with `ops.take`, which traces to some fourteen nodes of index arithmetic so
that negative indices count from the end. Gather takes negative indices as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._registry import NotLowerableError, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder
    from .._tracer import Tracer


@registry.register("keras.src.layers.core.embedding.Embedding", seam="layer", since_opset=14)
def lower(layer: Any, tracer: Tracer, inputs: Any) -> Any:
    """`keras.layers.Embedding`: indices `[...]` to vectors `[..., output_dim]`.

    Raises:
        NotLowerableError: A quantized layer.
    """
    import keras

    if getattr(layer, "quantization_mode", None):
        raise NotLowerableError("quantized weights")
    # Keras casts what it looked up; cast before, the table is no larger than it must be.
    table = tracer.read(lambda: layer.embeddings, layer.compute_dtype)
    # Keras's rule: indices of any other dtype are cast to int32, truncating.
    if inputs.dtype not in ("int32", "int64"):
        inputs = keras.ops.cast(inputs, "int32")

    def emit(builder: GraphBuilder, names: Sequence[str], outputs: Sequence[str]) -> None:
        builder.node(
            "Gather", [builder.const("embeddings", table), names[0]], output=outputs[0], axis=0
        )

    shape = [*inputs.shape, layer.output_dim]
    (vectors,) = tracer.mark([inputs], [(layer.compute_dtype, shape)], emit)
    return vectors
