"""The layers of a model, in its own order, each under a path that is unique in the model.

A path is the layer's name, below the names of the models and wrappers that hold it:
`lstm`, `encoder/lstm`, `bidirectional/forward_lstm`. It is what a reader of the ONNX file
sees in node names, and what error messages call the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from ._compat import layers_of
from ._unique import UniqueNames

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """A layer of the model.

    Attributes:
        layer: The Keras layer.
        path: Its unique path.
        parent: The entry of the layer that holds it; None at the top level.
        scope: A name scope for the trace that TensorFlow accepts, whatever the layer's name.
    """

    layer: Any
    path: str
    parent: LayerEntry | None
    scope: str


class LayerTable:
    """All layers below a model, found by object or by the scope of a traced operation."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._entries: dict[int, LayerEntry] = {}
        self._scopes: dict[str, LayerEntry] = {}
        self._add_children(model, None, UniqueNames())

    def _add_children(self, holder: Any, parent: LayerEntry | None, paths: UniqueNames) -> None:
        for layer in layers_of(holder, recursive=False):
            if id(layer) in self._entries:
                continue
            path = paths.take(f"{parent.path}/{layer.name}" if parent else layer.name)
            entry = LayerEntry(layer, path, parent, f"L{len(self._entries)}")
            self._entries[id(layer)] = entry
            self._scopes[entry.scope] = entry
            self._add_children(layer, entry, paths)

    def __iter__(self) -> Iterator[LayerEntry]:
        return iter(self._entries.values())

    def path_of_operation(self, name: str) -> str | None:
        """The path of the layer in whose scope a traced operation was made."""
        for part in reversed(name.split("/")):
            # tf2onnx makes names by appending to those of the operation: `L3/MatMul__12`
            entry = self._scopes.get(part)
            if entry is not None:
                return entry.path
        return None


def is_recurrent(layer: Any) -> bool:
    """Whether a layer runs a cell over time, as `keras.layers.RNN` and its subclasses do."""
    return isinstance(layer, keras.layers.RNN)


def upwards(entry: LayerEntry | None) -> Iterator[LayerEntry]:
    """A layer and those that hold it."""
    while entry is not None:
        yield entry
        entry = entry.parent
