"""A pass of the finish stage: products and recurrent operators in float16, between casts.

What they read is cast to float16 before them and what they give back to float32 behind them.
Everything else (softmax, means, comparisons, whatever float16 is too coarse or too short for)
stays in float32, as in mixed precision. Casts that would undo one another are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ._constants import constant
from ._quantize import COMPUTED, walk
from ._rounded import HALF_DTYPES
from ._writer import Constants, NodeWriter

if TYPE_CHECKING:
    from ._reduced import Record
    from ._rounded import ModelWeights

_PRODUCTS = frozenset(("Conv", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"))
# What is as well computed on the float16 that is there. NOTE: no Transpose: ONNX Runtime 1.32
# ends the process over one of float16 before a MatMul, when it runs on the CPU.
_FOLLOWERS = frozenset(("Add", "Squeeze", "Unsqueeze"))
_LARGEST = float(np.finfo(np.float16).max)
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class HalvePass(ir.passes.InPlacePass):
    """Computes products and recurrent operators in float16; needs nodes in their order.

    Args:
        record: Where what was done and what was not is written down.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        common.ShapeInferencePass()(model)
        constants = Constants(model.graph)
        opset = model.graph.opset_imports[""]
        narrow: dict[tuple[int, ir.Value], ir.Value] = {}
        modified = False
        for node, owner in list(walk(model.graph)):
            if node.domain or not self._record.wants(owner):
                continue
            follows = node.op_type in _FOLLOWERS and _follows(node, narrow)
            if not follows and not _is_product(node):
                continue
            why = _why_not(node, self._record.weights)
            if why:
                self._record.keep(owner, why)
                continue
            _narrow(node, NodeWriter(node, constants, opset), narrow)
            if not follows:
                self._record.change(owner)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _floats(node: ir.Node) -> list[int]:
    """Positions of the inputs that hold float32."""
    return [
        index
        for index, value in enumerate(node.inputs)
        if value is not None and value.dtype == _FLOAT
    ]


def _follows(node: ir.Node, narrow: dict[tuple[int, ir.Value], ir.Value]) -> bool:
    """Whether a node's first input is there in float16, and the others are constants."""
    first, *others = node.inputs
    known = first is not None and (id(node.graph), first) in narrow
    return known and all(constant(value) is not None for value in others)


def _is_product(node: ir.Node) -> bool:
    """Whether a node is to be computed in float16, if its values allow that."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type not in _PRODUCTS or first is None:
        return False
    if node.op_type == "Gather" and constant(first) is None:
        return False  # of what was computed, and not of a table
    return first.dtype in (_FLOAT, None)


def _why_not(node: ir.Node, known: ModelWeights) -> str:
    """Why a node stays in float32; empty if it need not."""
    if any(value is not None and value.dtype is None for value in node.inputs):
        return "the types of what it computes with are not known"
    arrays = [constant(node.inputs[index]) for index in _floats(node)]
    # not a number is beyond everything, too
    if any(a is not None and a.size and not np.abs(a).max() <= _LARGEST for a in arrays):
        return f"they hold values beyond {_LARGEST:g}"
    if not all(a is None or known.has_values(a, HALF_DTYPES["float16"]) for a in arrays):
        return COMPUTED
    return ""


def _narrow(
    node: ir.Node, writer: NodeWriter, narrow: dict[tuple[int, ir.Value], ir.Value]
) -> None:
    """Let a node compute in float16.

    Args:
        node: The node.
        writer: Adds nodes in front of it.
        narrow: The float16 of values of float32, by the graph that has a use for it.
    """
    graph: Any = node.graph
    for index in _floats(node):
        value = node.inputs[index]
        assert value is not None  # noqa: S101 - it holds float32
        key = (id(graph), value)
        if key not in narrow:
            array = constant(value)
            if array is None:
                made = writer.node("Cast", [value], to=_HALF)
                made.dtype, made.shape = _HALF, value.shape
            else:
                made = writer.constants.add(str(value.name), array.astype(np.float16))
            narrow[key] = made
        node.replace_input_with(index, narrow[key])
    for output in node.outputs:
        if output.dtype not in (_FLOAT, None):
            continue
        cast = ir.node("Cast", [output], {"to": _FLOAT}, name=f"{writer.scope}/Cast")
        wide = cast.outputs[0]
        wide.dtype, wide.shape = _FLOAT, output.shape
        output.dtype = _HALF
        graph.insert_after(node, cast)
        ir.convenience.replace_all_uses_with(output, wide, replace_graph_outputs=True)
        cast.replace_input_with(0, output)
        narrow[id(graph), wide] = output
