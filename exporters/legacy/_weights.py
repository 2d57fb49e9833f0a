"""The weights of Keras 2's HDF5 layout, read and put into a model.

A group per layer, in the order of the attribute `layer_names`; in it arrays in the order of
`weight_names`: trainable ones first, then the others, of everything that is inside of the
layer. Source: tf_keras/src/saving/legacy/hdf5_format.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from rnnonnx.errors import ModelFileError

from ._cudnn import GATES, from_cudnn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._adaptations import Adaptations


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """What a file has for one layer.

    Attributes:
        layer: The layer's name in the file.
        names: The names of the arrays: `lstm/lstm_cell/kernel:0`.
        arrays: The arrays, in Keras 2's order.
    """

    layer: str
    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]


def read_layer_weights(group: Any) -> list[LayerWeights]:
    """The weights in an HDF5 group, layers without any left out.

    Args:
        group: The `h5py.Group` with the attribute `layer_names`.
    """
    found = []
    for layer in _attribute(group, "layer_names"):
        names = _attribute(group[layer], "weight_names")
        if names:
            arrays = tuple(np.asarray(group[layer][name]) for name in names)
            found.append(LayerWeights(layer, tuple(names), arrays))
    return found


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names, which HDF5's limit on attributes may have split into parts."""
    parts = [name] if name in group.attrs else []
    while not parts or parts[-1] != name:
        part = f"{name}{len(parts)}"
        if part not in group.attrs:
            break
        parts.append(part)
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def assign_weights(
    model: Any,
    weights: Sequence[LayerWeights],
    members: Mapping[int, Sequence[tuple[str, Any]]],
    adaptations: Adaptations,
) -> None:
    """Give a model the weights of a file.

    Args:
        model: The `keras.Model`, built.
        weights: What the file has.
        members: The layers of every model, as `Rebuilder.members` has them.
        adaptations: Takes notes of layouts that were converted.

    Raises:
        ModelFileError: Layers, numbers or shapes of weights do not agree.
    """
    own = members.get(id(model)) or [(layer.name, layer) for layer in model.layers]
    wanted = [(name, layer, _slots(layer, members)) for name, layer in own]
    wanted = [(name, layer, slots) for name, layer, slots in wanted if slots]
    given = {entry.layer: entry for entry in weights}
    if not {name for name, _, _ in wanted} <= set(given):
        # Weights saved from a model whose layers had other names go by their order, as in Keras.
        if len(weights) != len(wanted):
            raise ModelFileError(
                "the weights are not this model's",
                expected=f"weights for {len(wanted)} layers: {[name for name, _, _ in wanted]}",
                received=f"for {len(weights)}: {list(given)}",
            )
        given = {name: entry for (name, _, _), entry in zip(wanted, weights, strict=True)}
    left = set(given) - {name for name, _, _ in wanted}
    if left:
        raise ModelFileError(
            f"the file has weights for layers that the model does not have: {sorted(left)}",
            expected=f"weights for {[name for name, _, _ in wanted]}",
        )
    for name, _, slots in wanted:
        _assign(name, slots, given[name], adaptations)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A variable, and the layer that computes with it (a recurrent layer, not its cell)."""

    owner: Any
    variable: Any


def _slots(layer: Any, members: Mapping[int, Sequence[tuple[str, Any]]]) -> list[_Slot]:
    """A layer's variables in the order of the file."""
    return _part(layer, members, trainable=True) + _part(layer, members, trainable=False)


def _part(layer: Any, members: Any, *, trainable: bool) -> list[_Slot]:
    """The trainable variables, or the others, of a layer and of what is inside of it."""
    inside = _inside(layer, members)
    if inside:
        return [slot for inner in inside for slot in _part(inner, members, trainable=trainable)]
    states = {id(state) for state in keras.tree.flatten(getattr(layer, "states", None) or [])}
    variables = layer.trainable_weights if trainable else layer.non_trainable_weights
    return [_Slot(layer, value) for value in variables if id(value) not in states]


def _inside(layer: Any, members: Any) -> list[Any]:
    """The layers that a model or a wrapper computes with, in Keras 2's order."""
    if isinstance(layer, keras.Model):
        return [inner for _, inner in members.get(id(layer), ())] or list(layer.layers)
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    if isinstance(layer, keras.layers.TimeDistributed):
        return [layer.layer]
    return []


def _assign(
    name: str, slots: Sequence[_Slot], given: LayerWeights, adaptations: Adaptations
) -> None:
    if len(slots) != len(given.arrays):
        slots, given = _without_counts(slots, given)
    if len(slots) != len(given.arrays):
        raise ModelFileError(
            f"layer {name!r} has another number of weights than the file",
            expected=f"{len(slots)}: {[slot.variable.path for slot in slots]}",
            received=f"{len(given.arrays)}: {list(given.names)}",
        )
    arrays = _in_order(slots, given)
    for start, count, owner in _runs(slots):
        class_name = type(owner).__name__
        part = arrays[start : start + count]
        converted = from_cudnn(class_name, part, name=owner.name) if class_name in GATES else None
        if converted is not None:
            adaptations.add("weights were converted from cuDNN's layout", owner.name)
            arrays[start : start + count] = converted
    for slot, array in zip(slots, arrays, strict=True):
        if tuple(slot.variable.shape) != array.shape:
            raise ModelFileError(
                f"weight {slot.variable.path!r} of layer {name!r} has another shape in the file",
                expected=tuple(slot.variable.shape),
                received=array.shape,
            )
        slot.variable.assign(array)
    for _, _, owner in _runs(slots):
        if hasattr(owner, "finalize_state"):
            owner.finalize_state()  # Normalization computes with what it derives from its weights


def _leaf(path: str) -> str:
    """The last part of a variable's name: `kernel` of `lstm/lstm_cell/kernel:0`."""
    return path.rpartition("/")[2].partition(":")[0]


def _without_counts(
    slots: Sequence[_Slot], given: LayerWeights
) -> tuple[Sequence[_Slot], LayerWeights]:
    """Without the sample counts of Normalization, which not every version keeps."""
    keep = [index for index, name in enumerate(given.names) if _leaf(name) != "count"]
    return [slot for slot in slots if _leaf(slot.variable.path) != "count"], LayerWeights(
        given.layer,
        tuple(given.names[index] for index in keep),
        tuple(given.arrays[index] for index in keep),
    )


def _in_order(slots: Sequence[_Slot], given: LayerWeights) -> list[np.ndarray]:
    """The arrays in the order of the variables.

    That is the order of the file. Where the names say otherwise (a class that makes its weights
    in another order than it did), the names decide.
    """
    wanted = [_leaf(slot.variable.path) for slot in slots]
    names = [_leaf(name) for name in given.names]
    if wanted == names or sorted(wanted) != sorted(names):
        return list(given.arrays)
    arrays, left = [], list(zip(names, given.arrays, strict=True))
    for name in wanted:
        index = next(i for i, (leaf, _) in enumerate(left) if leaf == name)
        arrays.append(left.pop(index)[1])
    return arrays


def _runs(slots: Sequence[_Slot]) -> list[tuple[int, int, Any]]:
    """Neighbouring variables of one layer: where they begin, how many, the layer."""
    runs: list[tuple[int, int, Any]] = []
    for index, slot in enumerate(slots):
        if runs and runs[-1][2] is slot.owner:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, slot.owner)
        else:
            runs.append((index, 1, slot.owner))
    return runs
