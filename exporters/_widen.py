"""A pass of the finish stage: float16 computed in float32, with every rounding written down.

ONNX Runtime's CPU has few operators in float16, and casts to float32 and back around the others.
Left to itself it drops the roundings between two operators, so that 1e-9 is not 0 to a mask; and
version 1.32 ends the process on a Transpose before a MatMul. So the file has the casts:

- inputs, outputs and states are of the dtype that they have in Keras;
- what Keras casts to float16 or from it, or decides by (a comparison, say), is rounded there;
- weights hold float16's values, stored as float32, which is what the operators compute in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

if TYPE_CHECKING:
    from collections.abc import Iterator

_HALF, _FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
# What makes a large difference of a small one.
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDINGS = ("Ceil", "Floor", "Mod", "Round", "Sign")
_DECIDING = frozenset((*_COMPARISONS, *_ROUNDINGS, "ArgMax", "ArgMin", "TopK"))


class WidenPass(ir.passes.InPlacePass):
    """Makes float32 of every float16 in a model, but for its inputs, outputs and roundings."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        if not any(value.dtype == _HALF for value in _values(model.graph)):
            return ir.passes.PassResult(model, modified=False)
        common.ShapeInferencePass()(model)
        half = {value for value in _values(model.graph) if value.dtype == _HALF}
        for value in half:
            if value.const_value is not None:
                value.const_value = _wide(value.const_value)
            value.dtype = _FULL
        for node in list(model.graph.all_nodes()):
            _widen(node, half)
        _keep_ends(model.graph, half)
        return ir.passes.PassResult(model, modified=True)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and of those inside of it."""
    for each in (graph, *graph.subgraphs()):
        yield from each.inputs
        yield from each.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen(node: ir.Node, half: set[ir.Value]) -> None:
    """Rewrite one node, whose values are float32 already."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
            node.attributes.add(ir.AttrTensor(name, _wide(attribute.as_tensor())))
    if node.op_type in _DECIDING:
        for index, value in enumerate(node.inputs):
            if value is not None and value in half and not _is_rounded(value):
                node.replace_input_with(index, _cast(node, _cast(node, value, _HALF), _FULL))
    if node.op_type == "Cast":
        (value,) = node.inputs
        assert value is not None  # noqa: S101 - a Cast has its input
        if node.outputs[0] in half:
            node.attributes.add(ir.AttrInt64("to", _FULL))
            rounds = value not in half and value.dtype != ir.DataType.BOOL
        else:
            rounds = value in half and not _is_rounded(value)
        if rounds:
            node.replace_input_with(0, _cast(node, value, _HALF))


def _is_rounded(value: ir.Value) -> bool:
    """Whether a value of float32 is one that float16 holds."""
    return value.const_value is not None or _narrow(value) is not None


def _narrow(value: ir.Value) -> ir.Value | None:
    """The value of float16 that a value was cast from; None if it was not."""
    maker = value.producer()
    if maker is None or maker.op_type != "Cast":
        return None
    source = maker.inputs[0]
    return source if source is not None and source.dtype == _HALF else None


def _cast(before: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A value in another dtype, by a node of the layer that `before` belongs to."""
    node = ir.node("Cast", [value], {"to": dtype}, name=before.name)
    node.outputs[0].dtype, node.outputs[0].shape = dtype, value.shape
    assert before.graph is not None  # noqa: S101 - it is a node of the model
    before.graph.insert_before(before, node)
    return node.outputs[0]


def _keep_ends(graph: ir.Graph, half: set[ir.Value]) -> None:
    """Give the graph's inputs and outputs their dtype back."""
    for value in graph.inputs:
        readers = [(use.node, use.idx) for use in value.uses()]
        if value not in half:
            continue
        value.dtype = _HALF
        if readers:
            wide = _cast(graph[0], value, _FULL)
            for node, index in readers:
                node.replace_input_with(index, wide)
    for index, value in enumerate(list(graph.outputs)):
        if value in half and value.dtype == _FULL:
            narrow = _narrow(value)
            if narrow is None:
                node = ir.node("Cast", [value], {"to": _HALF})
                narrow = node.outputs[0]
                narrow.dtype, narrow.shape = _HALF, value.shape
                graph.append(node)
            graph.outputs[index] = narrow
