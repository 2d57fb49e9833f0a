"""A pass of the finish stage: products, lookups and LSTMs with weights in int8."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from . import _int8
from ._constants import constant
from ._writer import Constants, NodeWriter, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._reduced import Record
    from ._rounded import ModelWeights

Array = np.ndarray[Any, np.dtype[Any]]

# NOTE: measured; docs/precision.md has the numbers. Of fewer weights a product of integers, some
# ten nodes, takes longer than one of float32.
INTEGER_WEIGHTS = 2**16
# Of fewer units a Scan takes longer than the operator. ONNX Runtime's RNN computes tanh one by
# one, so that a Scan of float32 products is no slower from the start.
SCAN_UNITS = {"GRU": 256, "RNN": 16}
# A node has some 150 bytes: of fewer weights the file would become larger.
FEWEST = 1024
# Operators with weights: those that have a form below, and those that have none.
_RECURRENT = ("GRU", "LSTM", "RNN")
_PRODUCTS = ("Gemm", "MatMul")
_WEIGHTED = frozenset((*_RECURRENT, *_PRODUCTS, "Conv", "ConvTranspose", "Einsum", "Gather"))
COMPUTED = "they are computed from the model's weights, and could not be compared with them"
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
        nodes = list(walk(model.graph))
        twice = self._rounded_twice(nodes)
        for node, owner in nodes:
            weights = weights_of(node)
            if not weights or not self._record.wants(owner):
                continue
            why = _why_not(node, weights, self._record.weights)
            if not why and not twice.isdisjoint(map(_content, weights.values())):
                why = "they are used in two ways, for which they would be rounded differently"
            if why:
                self._record.keep(owner, why)
                continue
            computed = _is_computed(node, weights)
            if computed:
                _compute(node, NodeWriter(node, constants, opset), weights)
            else:
                _store(node, NodeWriter(owner, constants, opset), weights)
            self._record.change(owner, stored=not computed)
            if computed and node.op_type == "LSTM":
                self._record.share(owner)
            modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _rounded_twice(self, nodes: list[tuple[ir.Node, ir.Node]]) -> set[bytes]:
        """Weights that two nodes would have in different int8: an Embedding's table read back.

        Of such there is no one value that the model's own weight could be given to compare it.
        """
        forms: dict[bytes, set[tuple[bool, bytes]]] = {}
        for node, owner in nodes:
            weights = weights_of(node)
            if not weights or not self._record.wants(owner):
                continue
            stays = bool(_why_not(node, weights, self._record.weights))
            for position, array in weights.items():
                if not np.isfinite(array).all() or array.dtype != np.float32:
                    continue
                scales = _int8.along(array, _axes(node, position, array)).scales
                # products and LSTMs leave room in their scales, lookups and what is stored do not
                room = _is_computed(node, weights) and node.op_type != "Gather"
                form = (room, b"" if stays else np.sort(scales, axis=None).tobytes())
                forms.setdefault(_content(array), set()).add(form)
        return {content for content, found in forms.items() if len(found) > 1}


def _content(array: Array) -> bytes:
    """The same for an array in every layout."""
    return hashlib.sha256(np.sort(array, axis=None).tobytes()).digest()


def worth_a_scan(node: ir.Node, known: ModelWeights) -> bool:
    """Whether a GRU or RNN is faster taken apart, with weights in int8; `known` are the model's."""
    weights = weights_of(node)
    large = node.attributes["hidden_size"].as_int() >= SCAN_UNITS[node.op_type]
    return large and len(weights) == 2 and not _why_not(node, weights, known)


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


def weights_of(node: ir.Node) -> dict[int, Array]:
    """The constant weights of a node by position; none of one that is no such operator."""
    if node.domain or node.op_type not in _WEIGHTED:
        return {}
    positions = range(1, 3) if node.op_type in _RECURRENT else range(len(node.inputs))
    found = {position: constant(node.inputs[position]) for position in positions}
    return {
        position: array
        for position, array in found.items()
        if array is not None and array.dtype.kind == "f" and array.ndim > 1
    }


def _why_not(node: ir.Node, weights: dict[int, Array], known: ModelWeights) -> str:
    """Why a node stays as it is; empty if it need not."""
    count = sum(array.size for array in weights.values())
    others = [array.dtype.name for array in weights.values() if array.dtype != np.float32]
    if others:
        return f"they are {others[0]}"
    if not all(np.isfinite(array).all() for array in weights.values()):
        return "they are not all finite"
    if node.op_type in ("ConvTranspose", "Einsum"):
        return f"there is no int8 form of the operator {node.op_type} here"
    if count < FEWEST:
        return f"{count} are too few, their int8 form would be larger"
    if node.op_type == "Gather":
        table = node.inputs[0]
        assert table is not None  # noqa: S101 - it is not optional
        axis = node.attributes.get("axis")
        if table.shape is None or len(table.shape) != 2 or (axis is not None and axis.as_int()):
            return "it does not look up the rows of a matrix"
        if any(use.node.op_type != "Gather" or use.idx != 0 for use in table.uses()):
            return "its table is used otherwise, too"
    units = (known.has_units(a, _axes(node, at, a)) for at, a in weights.items())
    return "" if all(units) else COMPUTED


def _axes(node: ir.Node, position: int, weight: Array) -> tuple[int, ...]:
    """The axes that the weights of one unit are along: those that the operator sums over."""
    if node.op_type == "Gather":
        return (0,)
    if node.op_type in _PRODUCTS:
        turned = node.attributes.get("transB" if position else "transA")
        last = (position == 0) != (turned is not None and bool(turned.as_int()))
        return (weight.ndim - 1 if last else weight.ndim - 2,)
    # [directions, gates * units, rows], or [units, channels, ...] of a Conv
    return (2,) if node.op_type in _RECURRENT else tuple(range(1, weight.ndim))


def _is_computed(node: ir.Node, weights: dict[int, Array]) -> bool:
    """Whether a node is computed in int8, and not only its weights stored so."""
    if node.op_type in ("Gather", "LSTM"):
        return True
    array = weights.get(1)
    if node.op_type not in _PRODUCTS or array is None or array.ndim != 2:
        return False
    given = {a.name: a.value for a in node.attributes.values()}
    plain = all(given.get(name, value) == value for name, value in _PLAIN_GEMM.items())
    return plain and array.size >= INTEGER_WEIGHTS and max(array.shape) <= _int8.MOST_ROWS


def _store(node: ir.Node, writer: NodeWriter, weights: dict[int, Array]) -> None:
    """Store the weights of a node in int8; it computes in float32."""
    for position, array in weights.items():
        name = weight_name(node, position)
        node.replace_input_with(
            position, _int8.stored(writer, name, array, _axes(node, position, array))
        )


def weight_name(node: ir.Node, position: int) -> str:
    """What the weight at a position is called."""
    return "WR"[position - 1] if node.op_type in _RECURRENT else "kernel"


def _compute(node: ir.Node, writer: NodeWriter, weights: dict[int, Array]) -> None:
    """Put the int8 form of a node in its place."""
    if node.op_type == "LSTM":
        results = _int8.lstm(writer, node, (weights[1], weights[2]))
    else:
        first, second, *bias = node.inputs
        assert first is not None  # noqa: S101 - neither of the two is optional
        assert second is not None  # noqa: S101
        if node.op_type == "Gather":
            results = [_int8.lookup(writer, weights[0], second)]
        else:
            turned = node.attributes.get("transB")
            turn = turned is not None and bool(turned.as_int())
            kernel = np.ascontiguousarray(weights[1].T) if turn else weights[1]
            results = [_int8.product(writer, first, kernel)]
            if bias and bias[0] is not None:
                results = [writer.node("Add", [*results, bias[0]])]
    for old, new in zip(node.outputs, results, strict=True):
        replace(old, new)
    assert node.graph is not None  # noqa: S101 - it is a node of the model
    node.graph.remove(node, safe=True)
