"""Counting a graph's parameters as Keras counts the model's.

A parameter is an element of a stored float tensor that a node uses as a weight. What is
stored for other reasons (shapes, axes, the 1/6 of a hard sigmoid, an initial state, the bounds
of a clip) is not one. ONNX splits what Keras keeps as one bias into an input part and a
recurrence part, and only their sum matters to LSTM, RNN and GRU(linear_before_reset=0): there
half of it counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ._providers import RECURRENT

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOATS: Final = frozenset([1, 10, 11, 16])  # FLOAT, FLOAT16, DOUBLE, BFLOAT16 in TensorProto
_NOT_WEIGHTS: Final = frozenset(
    [
        "Clip",
        "ConstantOfShape",
        "Expand",
        "Identity",
        "If",
        "Loop",
        "OneHot",
        "Pad",
        "Pow",
        "Range",
        "Scan",
        "Where",
    ]
)
"""Operators whose stored float inputs are bounds, fill values or initial states."""

_PRODUCTS: Final = frozenset(["Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"])
_RNN_WEIGHTS: Final = {1, 2, 3, 7}  # W, R, B, P; not sequence_lens, initial_h, initial_c
_RNN_BIAS: Final = 3

_INT8: Final = 3
_INT8_WEIGHTS: Final = {
    "Cast": {0},
    "DequantizeLinear": {0},
    "DynamicQuantizeLSTM": {1, 2},
    "Gather": {0},
    "MatMulInteger": {1},
}
"""Inputs that hold a weight in int8, by operator; zero points are int8, too."""


@dataclass
class Weights:
    """The stored tensors of a graph, and which of them have been seen as weights.

    Attributes:
        counted: Parameters by the tensor's name: each counts once, however often it is used.
    """

    counted: dict[str, int] = field(default_factory=dict)
    _stored: dict[str, Any] = field(default_factory=dict)
    _producer: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The parameters of all nodes that `of` was asked about."""
        return sum(self.counted.values())

    def enter(self, graph: Any) -> None:
        """Take in what a graph, or a subgraph, stores and computes."""
        for tensor in graph.initializer:
            self._stored[tensor.name] = tensor
        for node in graph.node:
            for output in node.output:
                self._producer[output] = node
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        self._stored[node.output[0]] = attribute.t

    def of(self, node: Any) -> dict[str, int]:
        """Parameters that a node uses, by the name of the stored tensor.

        Subgraphs are entered: the weights inside a Loop are the Loop's.
        """
        used: dict[str, int] = {}
        inside: list[Any] = []
        for body in subgraphs(node):
            self.enter(body)
            inside += body.node
        # An If may hold an operator and another form of it that reads the same weights: the
        # operator comes last, since it knows what counts of its bias.
        for inner in sorted(inside, key=lambda inner: inner.op_type in RECURRENT):
            used |= self.of(inner)
        if node.op_type not in _NOT_WEIGHTS:
            for position, name in enumerate(node.input):
                count = self._count(node, position, name)
                if count:
                    used[name] = count
        self.counted |= used
        return used

    def _count(self, node: Any, position: int, name: str) -> int:
        tensor = self._stored.get(name)
        if tensor is None or not tensor.dims:
            return 0
        size: int = math.prod(tensor.dims)
        if tensor.data_type == _INT8:
            return size if position in _INT8_WEIGHTS.get(node.op_type, ()) else 0
        if tensor.data_type not in _FLOATS or self._is_scale(node, name):
            return 0
        if node.op_type in (*RECURRENT, "DynamicQuantizeLSTM"):
            if position not in _RNN_WEIGHTS:
                return 0
            return size // 2 if position == _RNN_BIAS and not _keeps_both_biases(node) else size
        if size == 1 and node.op_type not in _PRODUCTS:
            # One float is a constant of the formula, unless it is the bias of a single unit.
            others = [self._op(other) for other in node.input if other != name]
            bias = node.op_type == "Add" and any(op in _PRODUCTS for op in others)
            return 1 if bias else 0
        return size

    def _is_scale(self, node: Any, name: str) -> bool:
        """Whether an input says what a step of int8 stands for."""
        if node.op_type == "DequantizeLinear":
            return True
        if node.op_type != "Mul":
            return False
        others = [self._producer.get(other) for other in node.input if other != name]
        casts = [maker.input[0] for maker in others if maker and maker.op_type == "Cast"]
        return any(
            self._op(source) == "MatMulInteger"
            or (source in self._stored and self._stored[source].data_type == _INT8)
            for source in casts
        )

    def _op(self, name: str) -> str | None:
        """The operator that gives a value."""
        maker = self._producer.get(name)
        return None if maker is None else str(maker.op_type)


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs that a control-flow node carries."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def walk(graph: Any) -> Iterator[Any]:
    """Every node of a graph, those of subgraphs after the node that carries them."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from walk(body)


def _keeps_both_biases(node: Any) -> bool:
    """Whether the recurrence bias is apart: GRU with `reset_after=True`, as Keras has it."""
    return node.op_type == "GRU" and any(
        attribute.name == "linear_before_reset" and attribute.i for attribute in node.attribute
    )
