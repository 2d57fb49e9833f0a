"""A small writer of ONNX nodes over tf2onnx's graph, which is all that lowerings see."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from tf2onnx.utils import make_name

if TYPE_CHECKING:
    from collections.abc import Sequence


class GraphBuilder:
    """Adds nodes and constants of one layer to a tf2onnx graph.

    Args:
        graph: The `tf2onnx.graph.Graph` (or the graph of a Loop's body) to add to.
        scope: The layer's scope; names of nodes begin with it.
        constants: Names of the constants made so far, shared by all builders of a model: a
            layer that is called twice has its weights in the file once.
        body: The graph of the step, for the marker of a loop.

    Attributes:
        body: The same.
    """

    def __init__(
        self, graph: Any, scope: str, constants: dict[tuple[Any, ...], str], body: Any = None
    ) -> None:
        self.body = body
        self._graph = graph
        self._scope = scope
        self._constants = constants

    def const(self, name: str, value: np.ndarray[Any, np.dtype[Any]]) -> str:
        """A constant tensor; returns its name."""
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
        key = (id(self._graph), self._scope, name, value.shape, value.dtype.str, digest)
        if key not in self._constants:
            unique = make_name(f"{self._scope}/{name}")
            made = self._graph.make_const(unique, np.ascontiguousarray(value))
            self._constants[key] = str(made.output[0])
        return self._constants[key]

    def axes(self, *values: int) -> str:
        """A one-dimensional int64 constant, as Squeeze and Unsqueeze take their axes."""
        return self.const("axes", np.array(values, np.int64))

    def nodes(
        self, op_type: str, inputs: Sequence[str], *, count: int = 1, **attributes: Any
    ) -> list[str]:
        """A node with `count` outputs; returns their names."""
        node = self._graph.make_node(
            op_type,
            list(inputs),
            attr=attributes,
            output_count=count,
            name=make_name(f"{self._scope}/{op_type}"),
        )
        return [str(name) for name in node.output]

    def node(
        self, op_type: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any
    ) -> str:
        """A node with one output, under the name `output` if given; returns that name."""
        node = self._graph.make_node(
            op_type,
            list(inputs),
            attr=attributes,
            outputs=[output] if output else None,
            name=make_name(f"{self._scope}/{op_type}"),
        )
        return str(node.output[0])
