"""Which dtypes a model may compute in, asked before anything is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnonnx.errors import UnsupportedLayerError

from ._layers import is_recurrent

if TYPE_CHECKING:
    from ._layers import LayerTable


def refuse_dtypes(table: LayerTable) -> None:
    """Refuse recurrent layers that compute in another dtype than float32.

    ONNX Runtime's CPU kernels of the recurrent operators take float32 alone: float64 loads
    and fails at the first run, float16 and bfloat16 do not load.

    Raises:
        UnsupportedLayerError: There is such a layer.
    """
    for entry in table:
        if is_recurrent(entry.layer) and entry.layer.compute_dtype != "float32":
            raise UnsupportedLayerError(
                f"layer {entry.path!r} computes in {entry.layer.compute_dtype}, and ONNX "
                "Runtime's recurrent operators compute in float32",
                expected="float32",
                received=f"dtype policy {entry.layer.dtype_policy.name!r}",
                remedy="build the same model under "
                "keras.config.set_dtype_policy('float32') and give it the weights: "
                "new.set_weights(old.get_weights())",
            )
