"""A pass of the finish stage: ONNX's GRU and RNN as a Scan around one step.

For int8, of which the operators have no form: what is left of them is products that have one.
The product with the input is computed for all steps before the Scan, as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._constants import constant, integers
from ._scan_cells import Cell, step
from ._writer import Constants, NodeWriter, replace

if TYPE_CHECKING:
    from collections.abc import Callable

_W, _R, _B, _LENGTHS, _INITIAL = 1, 2, 3, 4, 5  # inputs of GRU and RNN (version 14)
_GATES = {"GRU": 3, "RNN": 1}
_DEFAULTS = {"GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_INT64 = 7  # onnx.TensorProto.INT64


class ScanFormPass(ir.passes.InPlacePass):
    """Makes Scans of the GRU and RNN operators that `wanted` picks, of one direction each."""

    def __init__(self, wanted: Callable[[ir.Node], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        constants = Constants(model.graph)
        opset = model.graph.opset_imports[""]
        nodes = [node for node in model.graph.all_nodes() if node.op_type in _GATES]
        chosen = [node for node in nodes if self._wanted(node)]
        for node in chosen:
            _Operator(node, NodeWriter(node, constants, opset)).replace()
        return ir.passes.PassResult(model, modified=bool(chosen))


@dataclass(slots=True)
class _Operator:
    """One operator, and what takes its place."""

    node: ir.Node
    writer: NodeWriter

    def replace(self) -> None:
        """Put the Scan in its place."""
        node, writer = self.node, self.writer
        cell = _cell(node)
        reverse = _text(node, "direction", "forward") == "reverse"
        lengths = self._input(_LENGTHS)
        sequences = node.inputs[0]
        assert sequences is not None  # noqa: S101 - X is not optional
        if lengths is not None:
            wide = writer.node("Cast", [lengths], to=_INT64)
            if reverse:
                sequences = self._turned(sequences, wide)
        initial = self._initial(sequences, cell.units)
        slices = self._products(sequences, cell)
        if lengths is not None:
            slices.append(writer.valid(sequences, wide))
        stacked = bool(node.outputs[0].uses() or node.outputs[0].is_graph_output())
        body = step(cell, writer, masked=lengths is not None, stacked=stacked)
        attributes: dict[str, Any] = {"body": body, "num_scan_inputs": len(slices)}
        if reverse and lengths is None:
            attributes["scan_input_directions"] = [1] * len(slices)
            if stacked:
                attributes["scan_output_directions"] = [1]
        final, *outputs = writer.nodes("Scan", [initial, *slices], count=1 + stacked, **attributes)
        if stacked:
            if reverse and lengths is not None:
                outputs = [self._turned(outputs[0], wide)]
            # [time, batch, units] -> [time, 1 direction, batch, units]
            self._give(node.outputs[0], outputs[0], axis=1)
        if len(node.outputs) > 1:
            self._give(node.outputs[1], final, axis=0)
        assert node.graph is not None  # noqa: S101 - it is a node of the model
        node.graph.remove(node, safe=True)

    def _input(self, position: int) -> ir.Value | None:
        inputs = self.node.inputs
        return inputs[position] if position < len(inputs) else None

    def _products(self, sequences: ir.Value, cell: Cell) -> list[ir.Value]:
        """What each step takes: `sequences @ W + biases`, `[time, batch, ...]`, a part a gate."""
        writer = self.writer
        product = writer.node("MatMul", [sequences, writer.const("W", cell.kernel)])
        if cell.bias is not None:
            product = writer.node("Add", [product, writer.const("bias", cell.bias)])
        if cell.op_type == "RNN":
            return [product]
        sizes = writer.integers(2 * cell.units, cell.units)
        return writer.nodes("Split", [product, sizes], count=2, axis=-1)

    def _initial(self, sequences: ir.Value, units: int) -> ir.Value:
        """The initial h `[batch, units]`."""
        writer, given = self.writer, self._input(_INITIAL)
        if given is None:
            sizes = writer.node("Shape", [sequences])
            ends = [writer.integers(1), writer.integers(2), writer.integers(0)]
            batch = writer.node("Slice", [sizes, *ends])
            shape = writer.node("Concat", [batch, writer.integers(units)], axis=0)
            return writer.node("Expand", [writer.const("zeros", np.zeros(1, np.float32)), shape])
        maker = given.producer()
        if maker is not None and maker.op_type == "Unsqueeze" and integers(maker.inputs[1]) == [0]:
            source = maker.inputs[0]
            assert source is not None  # noqa: S101 - it is not optional
            return source
        return writer.node("Squeeze", [given, writer.integers(0)])

    def _turned(self, sequences: ir.Value, lengths: ir.Value) -> ir.Value:
        """Each row turned around within its length; what is behind that stays."""
        inputs = [sequences, lengths]
        return self.writer.node("ReverseSequence", inputs, batch_axis=1, time_axis=0)

    def _give(self, old: ir.Value, new: ir.Value, *, axis: int) -> None:
        """Hand out a result without the axis of directions that the operator gives it."""
        for use in list(old.uses()):
            reader = use.node
            if reader.op_type == "Squeeze" and integers(reader.inputs[1]) == [axis]:
                replace(reader.outputs[0], new)
                assert reader.graph is not None  # noqa: S101 - it is a node of the model
                reader.graph.remove(reader, safe=True)
        if old.uses() or old.is_graph_output():
            replace(old, self.writer.node("Unsqueeze", [new, self.writer.integers(axis)]))


def _cell(node: ir.Node) -> Cell:
    """What one step computes, with the weights as a product with a row takes them."""
    found = [constant(node.inputs[position]) for position in (_W, _R)]
    assert found[0] is not None  # noqa: S101 - only such are wanted
    assert found[1] is not None  # noqa: S101
    kernel, recurrent = found[0][0].T, found[1][0].T
    units, gates = recurrent.shape[0], _GATES[node.op_type]
    bias = inner = None
    given = constant(node.inputs[_B]) if len(node.inputs) > _B else None
    reset = node.attributes.get("linear_before_reset")
    after = reset is not None and bool(reset.as_int())
    if given is not None:
        bias, own = np.split(given[0], 2)
        # the bias of a product that nothing stands between is added to that of the input
        inside = 2 * units if node.op_type == "GRU" and after else gates * units
        inner = own[inside:]
        bias = bias + np.concatenate([own[:inside], np.zeros_like(inner)])
    activations = _texts(node, "activations") or _DEFAULTS[node.op_type]
    return Cell(
        op_type=node.op_type,
        units=units,
        kernel=np.ascontiguousarray(kernel),
        recurrent=np.ascontiguousarray(recurrent),
        bias=bias if bias is not None and bias.any() else None,
        inner_bias=inner if inner is not None and inner.any() else None,
        reset_after=after,
        activations=tuple(activations),
        alphas=tuple(_floats(node, "activation_alpha")),
        betas=tuple(_floats(node, "activation_beta")),
    )


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


def _texts(node: ir.Node, name: str) -> list[str]:
    attribute = node.attributes.get(name)
    return [] if attribute is None else [str(value) for value in attribute.as_strings()]


def _floats(node: ir.Node, name: str) -> list[float]:
    attribute = node.attributes.get(name)
    return [] if attribute is None else list(attribute.as_floats())
