"""Variables in which layers keep state: whose they are, and their value before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from rnnonnx.errors import UnsupportedLayerError

from . import _compat
from ._layers import LayerEntry, LayerTable, is_recurrent
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence


def own_variables(layer: Any) -> list[Any]:
    """The variables of a layer that may be state, without those of the layers in it."""
    if is_recurrent(layer):
        return list(keras.tree.flatten(layer.states or []))
    return _compat.own_variables(layer, trainable=False)


def doubtful_variables(table: LayerTable, updated: Sequence[Any]) -> list[tuple[LayerEntry, Any]]:
    """Variables with as many elements as the batch that the model was built for has rows.

    Each row may have its own, or the size is that of something else: of the features, say.
    """
    found = []
    for entry in table:
        if is_recurrent(entry.layer):
            continue
        for variable in own_variables(entry.layer):
            changes = any(variable is other for other in updated)
            if changes and len(variable.shape) and variable.shape[0] == built_batch(entry):
                found.append((entry, variable))
    return found


def built_batch(entry: LayerEntry) -> int | None:
    """The batch size that the layer was built with, where Keras recorded one."""
    config = entry.layer.get_build_config() or {}
    shape = config.get("input_shape")
    if isinstance(shape, (list, tuple)) and shape and isinstance(shape[0], int):
        return shape[0]
    return None


def reset_value(entry: LayerEntry, variable: Any, *, rows: bool) -> Any:
    """The variable's value after `reset_state()`, if the layer has one; else as it is.

    Args:
        entry: The layer.
        variable: Its variable.
        rows: Whether each row of the batch has its own, which must then be alike.

    Raises:
        UnsupportedLayerError: It cannot be known.
    """
    value = _after_reset(entry, variable)
    if rows and not np.array_equal(value, np.broadcast_to(value[:1], value.shape)):
        raise UnsupportedLayerError(
            f"layer {entry.path!r}: the rows of its state {variable.name!r} differ, so its value "
            "before the first step is not known",
            remedy="give the layer a reset_state() method, or reset it before the export",
        )
    return value


def _after_reset(entry: LayerEntry, variable: Any) -> Any:
    layer = entry.layer
    reset = getattr(layer, "reset_state", None) or getattr(layer, "reset_states", None)
    if reset is None:
        return np.asarray(variable)
    kept = [(own, np.asarray(own)) for own in layer.variables]
    try:
        reset()
        return np.asarray(variable)
    except Exception as error:
        raise UnsupportedLayerError(
            f"layer {entry.path!r}: its {reset.__name__}() fails, so the value of its state "
            f"{variable.name!r} before the first step is not known: {one_line(error)}",
            received=type(error).__name__,
            remedy="mend the method, which the export calls without arguments, or remove it: the "
            "state then begins with the variable's value at the export",
        ) from error
    finally:
        for own, old in kept:
            own.assign(old)
