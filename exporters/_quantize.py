"""A pass of the finish stage: products, lookups and LSTMs with weights in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from . import _int8
from ._constants import constant
from ._scan_form import weights_of
from ._writer import Constants, NodeWriter, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._reduced import Record

# NOTE: an int8 product is some ten nodes, and a node some 150 bytes; fewer weights than these
# would make the file larger, and each node costs a microsecond a call.
FEWEST = 1024
# Operators with weights; what is in none of the rules below is told of.
_WEIGHTED = frozenset(
    ("Conv", "ConvTranspose", "Einsum", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN")
)
_PLAIN_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0}


class QuantizePass(ir.passes.InPlacePass):
    """Rounds weights to int8 where there is a form for them, and tells of the others.

    Args:
        record: Where what was done and what was not is written down.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        model.graph.opset_imports.setdefault("com.microsoft", 1)
        constants = Constants(model.graph)
        opset = model.graph.opset_imports[""]
        modified = False
        for node, owner in list(walk(model.graph)):
            weights = _weights(node)
            if not weights or not self._record.wants(owner):
                continue
            why = _why_not(node, weights)
            if why:
                self._record.keep(owner, why)
                continue
            _replace(node, NodeWriter(node, constants, opset))
            self._record.change(owner)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def worth_a_scan(node: ir.Node) -> bool:
    """Whether a GRU or RNN has weights enough to be taken apart for them."""
    return node.op_type in ("GRU", "RNN") and not _why_not_recurrent(node)


def walk(graph: ir.Graph, holder: ir.Node | None = None) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Every node of a graph and of those inside of it, with the node that tells its layer.

    That is itself; in a body, the outermost node that holds the body.
    """
    for node in graph:
        owner = node if holder is None else holder
        yield node, owner
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from walk(attribute.as_graph(), owner)


def _weights(node: ir.Node) -> int:
    """How many constant float32 weights a node has; 0 for one that is no such operator."""
    if node.domain or node.op_type not in _WEIGHTED:
        return 0
    positions = range(1, 3) if node.op_type in ("GRU", "LSTM", "RNN") else range(2)
    found = [constant(node.inputs[position]) for position in positions]
    return sum(array.size for array in found if array is not None and _is_weight(array))


def _is_weight(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype == np.float32 and array.ndim > 1


def _why_not(node: ir.Node, weights: int) -> str:
    """Why a node stays as it is; empty if it need not."""
    if node.op_type in ("GRU", "LSTM", "RNN"):
        return _why_not_recurrent(node)
    if node.op_type not in ("Gather", "Gemm", "MatMul"):
        return f"ONNX Runtime has no operator {node.op_type} that rounds its input as it runs"
    if weights < FEWEST:
        return _too_few(weights)
    position = 0 if node.op_type == "Gather" else 1
    array = constant(node.inputs[position])
    if array is None or array.ndim != 2 or array.dtype != np.float32:
        return f"the weights of its {node.op_type} are no matrix that the input is multiplied with"
    if node.op_type == "Gather":
        return _why_not_gather(node)
    if max(array.shape) > _int8.MOST_ROWS:
        return f"a sum of {max(array.shape)} products may exceed int32"
    given = {a.name: a.value for a in node.attributes.values()}
    if node.op_type == "Gemm" and any(given.get(n, v) != v for n, v in _PLAIN_GEMM.items()):
        return "its Gemm scales, or transposes its input"
    return ""


def _why_not_recurrent(node: ir.Node) -> str:
    found = weights_of(node)
    if found is None:
        return f"the weights of its {node.op_type} are not constant"
    count = found[0].size + found[1].size
    if count < FEWEST:
        return _too_few(count)
    return ""


def _why_not_gather(node: ir.Node) -> str:
    table = node.inputs[0]
    assert table is not None  # noqa: S101 - it is not optional
    axis = node.attributes.get("axis")
    if axis is not None and axis.as_int() != 0:
        return "it looks up columns"
    if any(use.node.op_type != "Gather" or use.idx != 0 for use in table.uses()):
        return "its table is used otherwise, too"
    return ""


def _too_few(count: int) -> str:
    return f"{count} weights are too few: their int8 form would be larger"


def _replace(node: ir.Node, writer: NodeWriter) -> None:
    """Put the int8 form of a node in its place."""
    if node.op_type == "LSTM":
        weights = weights_of(node)
        assert weights is not None  # noqa: S101 - or there would have been a reason against it
        results = _int8.lstm(writer, node, weights)
    else:
        first, second, *bias = node.inputs
        assert first is not None  # noqa: S101 - neither of the two is optional
        assert second is not None  # noqa: S101
        if node.op_type == "Gather":
            table = constant(first)
            assert table is not None  # noqa: S101 - as above
            results = [_int8.lookup(writer, table, second)]
        else:
            kernel = constant(second)
            assert kernel is not None  # noqa: S101 - as above
            turned = node.attributes.get("transB")
            if turned is not None and turned.as_int():
                kernel = np.ascontiguousarray(kernel.T)
            results = [_int8.product(writer, first, kernel)]
            if bias and bias[0] is not None:
                results = [writer.node("Add", [*results, bias[0]])]
    for old, new in zip(node.outputs, results, strict=True):
        replace(old, new)
    assert node.graph is not None  # noqa: S101 - it is a node of the model
    node.graph.remove(node, safe=True)
