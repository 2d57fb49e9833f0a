"""Layers whose rule on masks Keras 3 has changed, with the rule that Keras 2 had.

What Keras 2 did is in tf_keras/src/layers, what Keras 3 does in keras/src/layers:

| Layers | Keras 2 | Keras 3 |
|---|---|---|
| Add, Average, Concatenate, ... | valid is what every mask has that is there | what one mask has |
| Maximum, Minimum, Multiply | a mask does not touch the values | masked values are left out |
| Identity, Normalization, Rescaling | the mask ends here | it passes |

Of TimeDistributed and of what masks do to a softmax other modules tell.

A class here has the name of Keras's own, which it replaces in models that are built again.
Each mask is computed by one operation, whose name no layer of a file has.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class _OfAllValues(_Merge):
    """A merge of all values, those of masked steps among them."""

    combine: Any

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(self.combine, inputs)


@register
class Multiply(_OfAllValues, keras.layers.Multiply):  # type: ignore[misc]
    """`keras.layers.Multiply` with Keras 2's mask, and of all values."""

    combine = staticmethod(ops.multiply)


@register
class Maximum(_OfAllValues, keras.layers.Maximum):  # type: ignore[misc]
    """`keras.layers.Maximum` with Keras 2's mask, and of all values."""

    combine = staticmethod(ops.maximum)


@register
class Minimum(_OfAllValues, keras.layers.Minimum):  # type: ignore[misc]
    """`keras.layers.Minimum` with Keras 2's mask, and of all values."""

    combine = staticmethod(ops.minimum)


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


def in_masked_models(model: Any) -> Iterator[Any]:
    """The layers of models inside of this one that were called on something masked.

    Keras does not run a model again to see what a symbolic call gives, so its layers have not
    met the mask yet.
    """
    # both are private to Keras, and there is no other way to ask
    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001
        if isinstance(layer, keras.Model) and any(
            getattr(value, "_keras_mask", None) is not None
            for node in layer._inbound_nodes  # noqa: SLF001
            for value in node.input_tensors
        ):
            yield from layer._flatten_layers(include_self=False)  # noqa: SLF001


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
    )
}
"""The classes that take the place of Keras's own, by name."""
