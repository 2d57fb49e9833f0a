"""The weights of the layout that `.keras` and `.weights.h5` files have, written by Keras 2.

Groups follow the objects: `layers/<class>_<number>/<attribute>/.../vars/<index>`, where the
number counts the layers of a class in the model's order. Source: tf_keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from rnnonnx.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._graph import Rebuilder


def assign_archive(group: Any, model: Any, rebuilder: Rebuilder) -> None:
    """Give a model the weights of an archive.

    Args:
        group: The root of the HDF5 file.
        model: The model, built.
        rebuilder: What built it, and so knows its layers in the file's order.

    Raises:
        ModelFileError: The file has other layers or other weights.
    """
    for path, layer, inner in _pairs("", group, model, rebuilder):
        arrays = [np.asarray(inner["vars"][key]) for key in sorted(inner["vars"], key=int)]
        try:
            layer.load_own_variables({str(i): array for i, array in enumerate(arrays)})
        except ValueError as error:
            raise ModelFileError(
                f"the weights at {path!r} do not fit layer {layer.name!r}: {error}"
            ) from error
    found = sum(len(inner["vars"]) for _, _, inner in _pairs("", group, model, rebuilder))
    if found != len(model.weights):
        raise ModelFileError(
            "the file has another number of weights than the model",
            expected=len(model.weights),
            received=found,
        )


def _pairs(path: str, group: Any, layer: Any, rebuilder: Rebuilder) -> Iterator[Any]:
    """Every group that has variables: its path, the object it belongs to, the group."""
    if len(group.get("vars", ())):
        yield path, layer, group
    if id(layer) in rebuilder.members:
        members = [(rebuilder.classes[id(m)], m) for _, m in rebuilder.members[id(layer)]]
        yield from _container(f"{path}/layers", group["layers"], members, rebuilder)
        return
    for name in group:
        inner, child = group[name], getattr(layer, name, None)
        if name == "vars" or not _has_arrays(inner):
            continue
        if isinstance(child, list | tuple):
            members = [(type(item).__name__, item) for item in child]
            yield from _container(f"{path}/{name}", inner, members, rebuilder)
        elif isinstance(child, keras.Layer):
            yield from _pairs(f"{path}/{name}", inner, child, rebuilder)
        else:
            raise ModelFileError(
                f"the file has weights at {path + '/' + name!r}, and the model nothing there"
            )


def _container(
    path: str, group: Any, members: Sequence[tuple[str, Any]], rebuilder: Rebuilder
) -> Iterator[Any]:
    """The items of a list, named after their classes and numbered."""
    count: dict[str, int] = {}
    for class_name, layer in members:
        stem = _snake(class_name)
        number = count[stem] = count.get(stem, -1) + 1
        name = f"{stem}_{number}" if number else stem
        if name in group:
            yield from _pairs(f"{path}/{name}", group[name], layer, rebuilder)


def _has_arrays(group: Any) -> bool:
    return any(len(group[n]) if n == "vars" else _has_arrays(group[n]) for n in group)


def _snake(name: str) -> str:
    """Keras's rule for class names: `LSTMCell` is `lstm_cell`, `Conv1D` is `conv1d`."""
    name = re.sub(r"\W+", "", name.rpartition(">")[2])
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
