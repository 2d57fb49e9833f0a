"""TimeDistributed with the mask that Keras 2 gave it.

Keras 2 (tf_keras/src/layers/rnn/time_distributed.py, `compute_mask`) asks the layer inside: a mask
may begin in it (a Masking) or end in it (an LSTM that gives vectors), and then a step is valid if
anything in it is. Keras 3 passes on the mask that came.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rnnonnx.errors import ModelFileError

from ._masks import OldMask, register


@register
class Keras2AnyOfMask(keras.Operation):  # type: ignore[misc]
    """A mask `[batch, time, ...]` of fewer axes: what has a valid element is valid.

    Args:
        rank: The number of axes to leave.
        name: As for `keras.Operation`.
    """

    def __init__(self, rank: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.rank = rank

    def call(self, mask: Any) -> Any:
        """The mask with `rank` axes."""
        return ops.any(mask, axis=tuple(range(self.rank, mask.ndim)))


@register
class TimeDistributed(OldMask, keras.layers.TimeDistributed):  # type: ignore[misc]
    """`keras.layers.TimeDistributed` with the mask that Keras 2 made of that of its layer."""

    old_rule = "the mask is what the layer inside makes of it, as in Keras 2"

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        known = type(self.layer).__module__.startswith(("keras.", __name__.rpartition(".")[0]))
        if mask is not None and inputs.shape[0] is not None and not known:
            raise ModelFileError(
                f"layer {self.name!r} applies {type(self.layer).__name__} to a masked sequence "
                "of a fixed batch: Keras 2 repeated the value before a masked step, which Keras 3 "
                "does not",
                remedy="save the model again with a batch of None, or without the mask",
            )
        found = _mask_inside(self.layer, inputs, mask, leading=2)
        self.met_mask = self.met_mask or found is not mask
        return found


def _mask_inside(layer: Any, inputs: Any, mask: Any, *, leading: int) -> Any:
    """What Keras 2's TimeDistributed made of a mask.

    Args:
        layer: The layer inside.
        inputs: `[batch, time, ...]`, as the wrapper has them.
        mask: Their mask or None.
        leading: How many axes the layer inside does not see as its own but the batch.
    """
    match layer:
        case keras.layers.Masking() | keras.layers.Embedding():
            return layer.compute_mask(inputs, mask)  # looks at elements alone
        case keras.layers.TimeDistributed():
            found = _mask_inside(layer.layer, inputs, mask, leading=leading + 1)
        case keras.layers.RNN() | keras.layers.Bidirectional():
            found = mask if layer.return_sequences else None
        case keras.layers.GlobalAveragePooling1D():
            found = None
        case keras.Model():
            found = _mask_of_model(layer, mask, leading)
        case _:
            found = mask if layer.supports_masking else None
    if found is None and mask is not None and mask.ndim > leading:
        return Keras2AnyOfMask(leading)(mask)
    return mask if found is None else found


def _mask_of_model(model: Any, mask: Any, leading: int) -> Any:
    """The same for a model inside, as far as it can be told without running the model."""
    outputs = keras.tree.flatten(model.outputs)
    begins = any(getattr(value, "_keras_mask", None) is not None for value in outputs)
    deep = mask is not None and mask.ndim > leading
    if begins or (deep and any(len(value.shape) > 2 for value in outputs)):
        raise ModelFileError(
            f"the model {model.name!r} stands in a TimeDistributed and gives masked sequences",
            expected="a model without masks, or one that gives vectors",
            remedy="build the model in Python, load the weights, and export it",
        )
    return None if deep else mask


REPLACED = {TimeDistributed.__name__: TimeDistributed}
"""The class that takes the place of Keras's own, by name."""
