"""The nodes of a graph as layers: grouped by their names, with shape and parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._parameters import Weights, subgraphs, walk
from .manifest import BATCH, TIME

if TYPE_CHECKING:
    from .manifest import Dim, Manifest

Shapes = dict[str, tuple[str, tuple["Dim", ...]]]
"""Dtype and shape of values, by name."""

_MAIN_OPS: Final = [
    "LSTM",
    "GRU",
    "RNN",
    "DynamicQuantizeLSTM",
    "Loop",
    "Scan",
    "If",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "MatMulInteger",
    "Einsum",
    "LayerNormalization",
    "BatchNormalization",
    "Gather",
]
"""Operators that make a layer what it is, the most telling first."""


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """The nodes of one layer.

    Attributes:
        name: The layer's name, with the names of the models around it: `encoder/lstm`.
        op: The operator that makes the layer what it is.
        nodes: How many nodes there are of each operator, `op` included, constants not.
        shape: Shape of the layer's output; None where inference does not know it.
        parameters: Parameters that the layer uses.
    """

    name: str
    op: str
    nodes: dict[str, int]
    shape: tuple[Dim, ...] | None
    parameters: int


def _layer_name(node: Any) -> str:
    name = node.name or f"{node.op_type}({', '.join(node.output[:1])})"
    return str(name).strip("/").rpartition("/")[0] or str(name).strip("/")


def layers_of(
    model: Any, shapes: Shapes, manifest: Manifest | None, weights: Weights
) -> tuple[LayerSummary, ...]:
    groups: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type != "Constant":  # part of whichever layer uses it
            groups.setdefault(_layer_name(node), []).append(node)
    state_outputs = {state.output for state in manifest.states} if manifest else set()
    results = {value.name for value in model.graph.output} - state_outputs
    users: dict[str, set[str]] = {}
    for node in model.graph.node:
        inner = [name for body in subgraphs(node) for part in walk(body) for name in part.input]
        for name in [*node.input, *inner]:
            users.setdefault(name, set()).add(_layer_name(node))
    position = {id(node): number for number, node in enumerate(model.graph.node)}
    layers = []
    for layer, nodes in groups.items():
        used: dict[str, int] = {}
        for node in nodes:
            used |= weights.of(node)
        outside = [
            output
            for node in nodes
            for output in node.output
            if output and (output in results or users.get(output, set()) - {layer})
        ]
        main, op = _main_node(nodes)
        summary = LayerSummary(
            name=layer,
            op=op,
            nodes=dict(Counter(node.op_type for node in nodes)),
            shape=_output_shape(outside or [nodes[-1].output[0]], shapes),
            parameters=sum(used.values()),
        )
        layers.append((position[id(main)], summary))
    # By the node that makes the layer: what prepares its state may stand far before it.
    return tuple(summary for _, summary in sorted(layers, key=lambda item: item[0]))


def _main_node(nodes: list[Any]) -> tuple[Any, str]:
    """The node that makes the layer, and its operator; of an If, the best that it holds."""
    for op in _MAIN_OPS:
        for node in nodes:
            inside = [n for body in subgraphs(node) for n in body.node] if _is_if(node) else []
            if any(each.op_type == op for each in (node, *inside)):
                return node, op
    return nodes[-1], str(nodes[-1].op_type)


def _is_if(node: Any) -> bool:
    return bool(node.op_type == "If")


def _output_shape(candidates: list[str], shapes: Shapes) -> tuple[Dim, ...] | None:
    """The shape of what a layer gives to others: of several, a float one of the highest rank.

    A layer may also hand out sizes that it computed (integers) and its last step beside the
    sequence; the sequence is what Keras would print. Between two recurrent layers the graph
    may keep a sequence time-major, as their operators take it; Keras prints it batch-first.
    """
    known = [shapes[name] for name in candidates if name in shapes]
    if not known:
        return None
    shape = max(known, key=lambda spec: (spec[0].startswith("float"), len(spec[1])))[1]
    if shape[1:2] == (BATCH,) and str(shape[0]).startswith(TIME):
        return (shape[1], shape[0], *shape[2:])
    return shape
