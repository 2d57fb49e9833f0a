"""Small writers of nodes over onnx-ir's graph, for passes of the finish stage."""

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

    Small equal integers and scalars are one. Weights are one if they are of one layer, which may
    be called twice; two layers with equal weights are two layers.
    """

    graph: ir.Graph
    _shared: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
        """A constant of the main graph, which graphs inside of it can read."""
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
        weights = array.size > _SMALL or (array.ndim > 0 and array.dtype.kind == "f")
        key = (array.dtype.str, array.shape, digest, name if weights else "")
        if key in self._shared:
            return self._shared[key]
        unique = UniqueNames(self.graph.initializers).take(name)
        value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        self._shared[key] = value
        return value


class Writer:
    """Writes nodes of one layer. Subclasses say where they go.

    Args:
        like: The node whose layer they belong to.
        constants: Where constants go.

    Attributes:
        scope: What the names of the layer's nodes begin with.
        constants: As given.
    """

    def __init__(self, like: ir.Node, constants: Constants) -> None:
        self.scope = str(like.name).rpartition("/")[0]
        self.constants = constants

    def place(self, node: ir.Node) -> None:
        """Put a node where it belongs."""
        raise NotImplementedError

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
        self.place(node)
        return list(node.outputs)

    def node(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A node with one output; returns it."""
        return self.nodes(op_type, inputs, **attributes)[0]

    def const(self, name: str, value: Any, dtype: Any = None) -> ir.Value:
        """A constant of the layer: an array, or what makes one."""
        return self.constants.add(f"{self.scope}/{name}", np.array(value, dtype, order="C"))

    def integers(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: axes, a shape."""
        return self.const("axes", values, np.int64)

    def valid(self, sequences: ir.Value, lengths: ir.Value) -> ir.Value:
        """Which steps of which rows are within their length: bool `[time, batch, 1]`.

        Args:
            sequences: `[time, batch, ...]`.
            lengths: int64 `[batch]`.
        """
        shape = self.node("Shape", [sequences])
        count = self.node("Gather", [shape, self.const("axis", 0, np.int64)], axis=0)
        zero, one = (self.const("count", number, np.int64) for number in (0, 1))
        # [time] -> [time, 1, 1]; [batch] -> [batch, 1]
        steps = self.node(
            "Unsqueeze", [self.node("Range", [zero, count, one]), self.integers(1, 2)]
        )
        return self.node("Less", [steps, self.node("Unsqueeze", [lengths, self.integers(1)])])


class NodeWriter(Writer):
    """Adds nodes in front of another, as nodes of the same layer.

    Args:
        before: The node.
        constants: Where constants go.
        opset: The opset of the model.
    """

    def __init__(self, before: ir.Node, constants: Constants, opset: int) -> None:
        super().__init__(before, constants)
        self.before = before
        self.opset = opset

    def place(self, node: ir.Node) -> None:
        """See the base class."""
        graph = self.before.graph
        assert graph is not None  # noqa: S101 - it is a node of the model
        graph.insert_before(self.before, node)


class Section(Writer):
    """Nodes of one layer that are written together, and then put into a graph."""

    def __init__(self, like: ir.Node, constants: Constants) -> None:
        super().__init__(like, constants)
        self._like = like
        self._nodes: list[ir.Node] = []

    def place(self, node: ir.Node) -> None:
        """See the base class."""
        self._nodes.append(node)

    def apart(self) -> Section:
        """Another one of the same layer."""
        return Section(self._like, self.constants)

    def insert_before(self, node: ir.Node) -> None:
        """Put the nodes into the main graph."""
        self.constants.graph.insert_before(node, self._nodes)

    def as_graph(
        self, name: str, outputs: Sequence[ir.Value], inputs: Sequence[ir.Value] = ()
    ) -> ir.Graph:
        """The nodes as a graph of their own, for a Scan or an If."""
        for index, value in enumerate((*inputs, *outputs)):
            value.name = f"{self.scope}/{name}{index}"
        return ir.Graph(inputs, outputs, nodes=self._nodes, name=f"{self.scope}/{name}")


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of a value, and the graph that gives it, have another."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
