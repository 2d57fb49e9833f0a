"""The layers of a model, in its own order, each under a path that is unique in the model.

A path is the layer's name, below the names of the models and wrappers that hold it:
`lstm`, `encoder/lstm`, `bidirectional/forward_lstm`. It is what a reader of the ONNX file
sees in node names, and what error messages call the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import UnsupportedLayerError

from ._compat import layers_of

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
        paths: set[str] = set()
        self._add_children(model, None, paths)

    def _add_children(self, holder: Any, parent: LayerEntry | None, paths: set[str]) -> None:
        for layer in layers_of(holder, recursive=False):
            if id(layer) in self._entries:
                continue
            base = path = f"{parent.path}/{layer.name}" if parent else layer.name
            count = 1
            while path in paths:
                path = f"{base}_{count}"
                count += 1
            paths.add(path)
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

    def order(self, layer: Any) -> int:
        """The position of a layer in the model's order; untracked layers come last."""
        for position, entry in enumerate(self._entries.values()):
            if entry.layer is layer:
                return position
        return len(self._entries)


def is_recurrent(layer: Any) -> bool:
    """Whether a layer runs a cell over time, as `keras.layers.RNN` and its subclasses do."""
    return isinstance(layer, keras.layers.RNN)


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
