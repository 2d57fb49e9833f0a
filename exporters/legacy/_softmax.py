"""Layers with a softmax under a mask, with the arithmetic of Keras 2.

Keras 2 (tf_keras/src/layers/activation/softmax.py) adds -1e9 to what is masked: where all is
masked, the weights come out equal. Keras 3 (keras/src/layers/activations/softmax.py) makes them
zero, and its MultiHeadAttention does so if it has dropout or returns the scores.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ._masks import OldMask, register


@register
class Softmax(OldMask, keras.layers.Softmax):  # type: ignore[misc]
    """`keras.layers.Softmax` with Keras 2's arithmetic on masks.

    Args:
        robust_masking: Keras 2's: replaces masked values, and does not add to them.
        arguments: As for `keras.layers.Softmax`.
    """

    old_rule = "where all is masked, softmax gives equal weights as in Keras 2"

    def __init__(self, *, robust_masking: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.robust_masking = robust_masking

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        self.met_mask = self.met_mask or mask is not None
        return super().compute_mask(inputs, mask)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is not None:
            dtype = keras.backend.standardize_dtype(inputs.dtype)
            low = -32752.0 if dtype == "float16" else -1e9
            if self.robust_masking:
                if keras.backend.standardize_dtype(mask.dtype) != "bool":
                    mask = mask > 0.5
                inputs = ops.where(mask, inputs, ops.cast(low, dtype))
            else:
                inputs += (1.0 - ops.cast(mask, dtype)) * low
        return super().call(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "robust_masking": self.robust_masking}


@register
class MultiHeadAttention(OldMask, keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """`keras.layers.MultiHeadAttention` with Keras 2's softmax.

    Args:
        positional: As for `keras.layers.MultiHeadAttention`.
        softmax_robust_masking: As for `Softmax`.
        arguments: As for `keras.layers.MultiHeadAttention`.
    """

    old_rule = Softmax.old_rule

    def __init__(
        self, *positional: Any, softmax_robust_masking: bool = False, **arguments: Any
    ) -> None:
        super().__init__(*positional, **arguments)
        self.softmax_robust_masking = softmax_robust_masking

    def _build_attention(self, rank: int) -> None:
        super()._build_attention(rank)
        self._softmax = Softmax(
            axis=self._softmax.axis,  # type: ignore[has-type]
            dtype=self.dtype_policy,
            robust_masking=self.softmax_robust_masking,
        )

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,  # noqa: FBT001, FBT002
        training: Any = None,
        use_causal_mask: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        # NOTE: Keras 3 takes the masks off the tensors, and the next layer that reads them finds
        # none; so it gets tensors of their own, and reads the query's mask there.
        query, value = ops.copy(query), ops.copy(value)
        if query_mask is not None:
            query._keras_mask = query_mask  # noqa: SLF001
        return super().call(
            query,
            value,
            None if key is None else ops.copy(key),
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    def compute_output_spec(self, *tensors: Any, **arguments: Any) -> Any:
        masks = [value for name, value in arguments.items() if name.endswith("_mask")]
        self.met_mask = self.met_mask or any(hasattr(mask, "shape") for mask in masks)
        return super().compute_output_spec(*tensors, **arguments)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "softmax_robust_masking": self.softmax_robust_masking}


REPLACED = {cls.__name__: cls for cls in (Softmax, MultiHeadAttention)}
"""The classes that take the place of Keras's own, by name."""
