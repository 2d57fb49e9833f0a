"""A recurrent operator as a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._constants import constant, integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._writer import Section

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}
_FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# Inputs of the operators by position (ONNX RNN, GRU and LSTM, version 14).
_X, _W, _R, _B, _LENGTHS, _STATES = 0, 1, 2, 3, 4, (5, 6)
# What of alpha and beta a function takes in the recurrent operators.
_TAKES = {"Elu": "a", "LeakyRelu": "a", "HardSigmoid": "ab", "Affine": "ab"}
_PLAIN = ("Tanh", "Sigmoid", "Relu", "Softsign")


@dataclass(frozen=True, slots=True)
class Function:
    """An activation as an operator of its own.

    Attributes:
        op_type: `Tanh`, `HardSigmoid`, ...; `Identity` for none.
        attributes: Its alpha and beta.
    """

    op_type: str
    attributes: dict[str, float] = field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        """Whether it is finite everywhere."""
        return self.op_type in ("Tanh", "Sigmoid", "Softsign", "HardSigmoid")

    def apply(self, section: Section, value: ir.Value) -> ir.Value:
        """The function of a value."""
        if self.op_type == "Identity":
            return value
        return section.node(self.op_type, [value], **self.attributes)


@dataclass(frozen=True, slots=True)
class RecurrentNode:
    """A recurrent operator that reads in one direction, as the lowerings write it.

    Attributes:
        graph: The graph it is in.
        node: The operator.
        op_type: `LSTM`, `GRU` or `RNN`.
        units: `hidden_size`.
        sequences: `[time, batch, features]`.
        W: `[1, gates * units, features]`, constant, gates in ONNX's order.
        R: `[1, gates * units, units]`, constant.
        B: `[1, 2 * gates * units]`, constant; None without bias.
        lengths: `[batch]` of int32: how many steps of each row are computed; None for all.
        states: Initial states, `[1, batch, units]` each; empty for zeros.
        reverse: Whether it reads from the last step to the first.
        functions: The activations: for LSTM those of i, o and f, of c, of the output; for GRU
            those of z and r, of g; for RNN the only one.
        after: GRU's `linear_before_reset`.
        rows: The batch size; None if it is not known.
        readers: The Squeeze nodes after the outputs: all outputs `[time, batch, units]`, then
            each final state `[batch, units]`.
    """

    graph: ir.Graph
    node: ir.Node
    op_type: str
    units: int
    sequences: ir.Value
    W: ir.Value
    R: ir.Value
    B: ir.Value | None
    lengths: ir.Value | None
    states: tuple[ir.Value, ...]
    reverse: bool
    functions: tuple[Function, ...]
    after: bool
    rows: int | None
    readers: tuple[tuple[ir.Node, ...], ...]

    @property
    def gates(self) -> int:
        """How many gates it has."""
        return GATES[self.op_type]

    @property
    def gives_sequence(self) -> bool:
        """Whether anything reads the outputs of all steps."""
        return bool(self.readers[0])

    @property
    def runs_on(self) -> bool:
        """Whether a row that is shorter than the sequence ends before others in the same step."""
        return self.lengths is not None and not self.reverse

    def again(self, section: Section) -> list[ir.Value | None]:
        """The same operator in another graph: what `replace` takes."""
        outputs = section.nodes(
            self.op_type,
            list(self.node.inputs),
            count=len(self.readers),
            **{name: attribute.value for name, attribute in self.node.attributes.items()},
        )
        results: list[ir.Value | None] = []
        for index, (value, readers) in enumerate(zip(outputs, self.readers, strict=True)):
            if not readers:
                value.name = ""
            # [time, 1, batch, units] and [1, batch, units]
            axes = section.integers(1 if index == 0 else 0)
            results.append(section.node("Squeeze", [value, axes]) if readers else None)
        return results

    def replace(self, results: Sequence[ir.Value | None]) -> None:
        """Give all outputs `[time, batch, units]` and the final states; None for what is unread."""
        for group, result in zip(self.readers, results, strict=True):
            for reader in group:
                assert result is not None  # noqa: S101 - it is read
                result.type, result.shape = reader.outputs[0].type, reader.outputs[0].shape
                ir.convenience.replace_all_uses_with(
                    reader.outputs[0], result, replace_graph_outputs=True
                )

    def remove(self) -> None:
        """Take the operator and what read it out of the graph."""
        self.graph.remove([reader for group in self.readers for reader in group], safe=True)
        self.graph.remove(self.node, safe=True)


def read_operator(graph: ir.Graph, node: ir.Node) -> RecurrentNode | None:
    """The record of a node; None if it is no recurrent operator that has other forms."""
    if node.op_type not in GATES:
        return None
    inputs = [node.inputs[i] if i < len(node.inputs) else None for i in range(8)]
    direction = node.attributes.get("direction")
    reading = "forward" if direction is None else direction.as_string()
    sequences, weights, recurrent, bias = inputs[:_LENGTHS]
    functions = _functions(node)
    readers = _readers(node)
    arrays = [constant(value) for value in (weights, recurrent)]
    known = all(array is not None and array.dtype == np.float32 for array in arrays)
    if sequences is None or weights is None or recurrent is None or not known:
        return None
    strange = inputs[7] is not None or "clip" in node.attributes or "layout" in node.attributes
    if strange or reading == "bidirectional" or not functions or readers is None:
        return None
    reset = node.attributes.get("linear_before_reset")
    shape = sequences.shape
    rows = shape[1] if shape is not None and len(shape) == 3 else None
    return RecurrentNode(
        graph,
        node,
        node.op_type,
        node.attributes["hidden_size"].as_int(),
        sequences,
        weights,
        recurrent,
        bias,
        inputs[_LENGTHS],
        tuple(value for value in (inputs[position] for position in _STATES) if value is not None),
        reverse=reading == "reverse",
        functions=functions,
        after=reset is not None and bool(reset.as_int()),
        rows=rows if isinstance(rows, int) else None,
        readers=readers,
    )


def _functions(node: ir.Node) -> tuple[Function, ...]:
    """The activations as operators; none if one of them has no operator."""

    def listed(name: str) -> list[Any]:
        attribute = node.attributes.get(name)
        return [] if attribute is None else list(attribute.value)

    names = [str(name) for name in listed("activations")] or list(_FUNCTIONS[node.op_type])
    # alpha and beta are consumed in the order of the functions that take them
    left = {"alpha": listed("activation_alpha"), "beta": listed("activation_beta")}
    found = []
    for name in names:
        if name not in _PLAIN and name not in _TAKES:
            return ()
        taken = {}
        for letter in _TAKES.get(name, ""):
            word = "alpha" if letter == "a" else "beta"
            if left[word]:
                taken[word] = float(left[word].pop(0))
        if name == "Affine":
            if taken != {"alpha": 1.0, "beta": 0.0}:
                return ()
            found.append(Function("Identity"))
        else:
            found.append(Function(name, taken))
    return tuple(found)


def _readers(node: ir.Node) -> tuple[tuple[ir.Node, ...], ...] | None:
    """The Squeezes behind each output; None if anything else reads one."""
    groups: list[tuple[ir.Node, ...]] = []
    for index, value in enumerate(node.outputs):
        readers = tuple(use.node for use in value.uses())
        # the direction is axis 1 of Y, axis 0 of the final states
        axes = [1 if index == 0 else 0]
        plain = all(r.op_type == "Squeeze" and integers(r.inputs[1]) == axes for r in readers)
        if value.is_graph_output() or not plain:
            return None
        groups.append(readers)
    # outputs at the end that nothing reads may be gone
    return (*groups, *[()] * (_OUTPUTS[node.op_type] - len(groups)))
