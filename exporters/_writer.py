"""A small writer of nodes over onnx-ir's graph, for passes of the finish stage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._unique import UniqueNames

if TYPE_CHECKING:
    from collections.abc import Sequence

_SMALL = 16  # elements of a constant that is worth sharing


@dataclass(slots=True)
class Constants:
    """The constants that a pass adds to a model.

    Small equal ones are one. Weights are one if they are of one layer, which may be called twice;
    two layers with equal weights are two layers.
    """

    graph: ir.Graph
    _shared: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
        """A constant of the main graph, which graphs inside of it can read."""
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
        key = (array.dtype.str, array.shape, digest, name if array.size > _SMALL else "")
        if key in self._shared:
            return self._shared[key]
        unique = UniqueNames(self.graph.initializers).take(name)
        value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        self._shared[key] = value
        return value


@dataclass(slots=True)
class NodeWriter:
    """Adds nodes in front of another, as nodes of the same layer.

    Attributes:
        before: The node.
        constants: Where constants go.
        opset: The opset of the model.
    """

    before: ir.Node
    constants: Constants
    opset: int

    @property
    def scope(self) -> str:
        """What the names of the layer's nodes begin with."""
        return str(self.before.name).rpartition("/")[0]

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        count: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """A node with `count` outputs; returns them."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=count)
        node.name = f"{self.scope}/{op_type}"
        graph = self.before.graph
        assert graph is not None  # noqa: S101 - it is a node of the model
        graph.insert_before(self.before, node)
        return list(node.outputs)

    def node(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A node with one output; returns it."""
        return self.nodes(op_type, inputs, **attributes)[0]

    def const(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
        """A constant of the layer."""
        return self.constants.add(f"{self.scope}/{name}", array)

    def integers(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: axes, a shape."""
        return self.const("axes", np.array(values, np.int64))


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of a value, and the graph that gives it, have another."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
