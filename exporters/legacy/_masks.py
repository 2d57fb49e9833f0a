"""Layers whose rule on masks Keras 3 has changed, with the rule that Keras 2 had.

What Keras 2 did is in tf_keras/src/layers, what Keras 3 does in keras/src/layers:

| Layers | Keras 2 | Keras 3 |
|---|---|---|
| Add, Average, Concatenate, ... | valid is what every mask has that is there | what one mask has |
| Maximum, Minimum, Multiply | a mask does not touch the values | masked values are left out |
| Identity, Normalization, Rescaling | the mask ends here | it passes |
| TimeDistributed | what its layer makes of the mask, or of none | it passes |

What they do to a softmax is in `_softmax.py`.

A class here has the name of Keras's own, which it replaces in models that are built again.
Each mask is computed by one operation, whose name no layer of a file has.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from rnnonnx.errors import ModelFileError

register = keras.saving.register_keras_serializable("rnnonnx")


@register
class Keras2EveryMask(keras.Operation):  # type: ignore[misc]
    """The steps that every one of the masks allows."""

    def call(self, masks: Any) -> Any:
        """`masks` of one shape, bool, as one."""
        return functools.reduce(ops.logical_and, masks)


@register
class Keras2ConcatenatedMask(keras.Operation):  # type: ignore[misc]
    """The mask of tensors that are joined.

    Args:
        axis: The axis along which they are.
        name: As for `keras.Operation`.
    """

    def __init__(self, axis: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.axis = axis

    def call(self, inputs: Any, masks: Any) -> Any:
        """`inputs`, and the mask of each or None: the steps in which all of them are valid."""
        parts = []
        for value, mask in zip(inputs, masks, strict=True):
            if mask is None:
                parts.append(ops.ones_like(value, dtype="bool"))
            else:
                parts.append(mask if mask.ndim == value.ndim else ops.expand_dims(mask, -1))
        return ops.all(ops.concatenate(parts, axis=self.axis), axis=-1)


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


class OldMask:
    """A layer with Keras 2's rule on masks.

    Attributes:
        old_rule: What it does, for the notes on a file.
        met_mask: Whether a mask has reached it.
    """

    old_rule = ""
    met_mask = False


class _Merge(OldMask):
    old_rule = (
        "masks are joined as in Keras 2: a step is valid if every input that has a mask has it"
    )

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:  # noqa: ARG002 - Keras's
        masks = [value for value in mask or () if value is not None]
        if not masks:
            return None
        self.met_mask = True
        return masks[0] if len(masks) == 1 else Keras2EveryMask()(masks)


@register
class Add(_Merge, keras.layers.Add):  # type: ignore[misc]
    """`keras.layers.Add` with Keras 2's mask."""


@register
class Subtract(_Merge, keras.layers.Subtract):  # type: ignore[misc]
    """`keras.layers.Subtract` with Keras 2's mask."""


@register
class Average(_Merge, keras.layers.Average):  # type: ignore[misc]
    """`keras.layers.Average` with Keras 2's mask."""


@register
class Multiply(_Merge, keras.layers.Multiply):  # type: ignore[misc]
    """`keras.layers.Multiply` with Keras 2's mask, and of all values."""

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(ops.multiply, inputs)


@register
class Maximum(_Merge, keras.layers.Maximum):  # type: ignore[misc]
    """`keras.layers.Maximum` with Keras 2's mask, and of all values."""

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(ops.maximum, inputs)


@register
class Minimum(_Merge, keras.layers.Minimum):  # type: ignore[misc]
    """`keras.layers.Minimum` with Keras 2's mask, and of all values."""

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(ops.minimum, inputs)


@register
class Concatenate(_Merge, keras.layers.Concatenate):  # type: ignore[misc]
    """`keras.layers.Concatenate` with Keras 2's mask."""

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None or all(value is None for value in mask):
            return None
        self.met_mask = True
        return Keras2ConcatenatedMask(self.axis)(list(inputs), list(mask))


class _End(OldMask):
    old_rule = "a mask ends here, as in Keras 2"

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:  # noqa: ARG002 - Keras's
        self.met_mask = self.met_mask or mask is not None


@register
class Identity(_End, keras.layers.Identity):  # type: ignore[misc]
    """`keras.layers.Identity` without a mask."""

    def call(self, inputs: Any) -> Any:
        # a tensor of its own: the mask is kept on the one that came in
        return ops.copy(inputs)


@register
class Normalization(_End, keras.layers.Normalization):  # type: ignore[misc]
    """`keras.layers.Normalization` without a mask."""


@register
class Rescaling(_End, keras.layers.Rescaling):  # type: ignore[misc]
    """`keras.layers.Rescaling` without a mask."""


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


REPLACED = {
    cls.__name__: cls
    for cls in (
        Add,
        Average,
        Concatenate,
        Identity,
        Maximum,
        Minimum,
        Multiply,
        Normalization,
        Rescaling,
        Subtract,
        TimeDistributed,
    )
}
"""The classes that take the place of Keras's own, by name."""
