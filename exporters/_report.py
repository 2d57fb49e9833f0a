"""What an export tells: what became of each layer, what the file holds, how it was checked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx

from ._layers import is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rnnonnx._parity_report import ParityReport
    from rnnonnx.manifest import Manifest

    from ._layers import LayerEntry, LayerTable

# What a layer is known by comes first; arithmetic and reshaping around it follows.
_CHARACTERISTIC = (
    *("LSTM", "DynamicQuantizeLSTM", "GRU", "RNN", "Loop", "Scan", "If"),
    *("Gather", "Conv", "Gemm", "MatMul", "MatMulInteger"),
)

_RECURRENT = {"LSTM", "GRU", "RNN", "Scan"}


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What one layer became.

    Attributes:
        name: The layer's path in the model.
        class_name: Its Keras class.
        form: The ONNX operators that stand for it, the characteristic one first: `LSTM`,
            `Gather`, `Scan`, `MatMul, Add`. Empty for a layer that leaves no trace (Dropout).
        note: Why a layer has no native operator, and why no Scan if that is so; else empty.
        precision: What `precision=` has made of it: `float16` or `int8`; `int8 weights` or
            `bfloat16 weights` where they are stored so and it computes in float32; else
            `float32`, which also stands for what the model itself computes in.
    """

    name: str
    class_name: str
    form: str
    note: str = ""
    precision: str = "float32"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: The file that was written.
        model_name: The Keras model's name.
        manifest: The manifest in the file.
        opset: The ONNX opset of the file.
        size: Size of the file in bytes.
        nodes: How many nodes of each operator the file has, subgraphs included.
        layers: What became of each layer, in the model's order.
        notes: What a reader of the file should know.
        parity: The comparison with Keras; None if it was not asked for.
        seconds: Wall-clock time of the export.
    """

    path: Path
    model_name: str
    manifest: Manifest
    opset: int
    size: int
    nodes: Mapping[str, int]
    layers: tuple[LayerRecord, ...]
    notes: tuple[str, ...]
    parity: ParityReport | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "path": str(self.path),
            "model_name": self.model_name,
            "opset": self.opset,
            "size": self.size,
            "nodes": dict(self.nodes),
            "layers": [asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
            "parity": self.parity.to_dict() if self.parity else None,
            "seconds": self.seconds,
            "manifest": json.loads(self.manifest.to_json()),
        }


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator a model has, subgraphs included."""
    counts: dict[str, int] = {}
    for node in all_nodes(model.graph):
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def describe_layers(
    model: onnx.ModelProto, table: LayerTable, declined: Mapping[str, str]
) -> tuple[LayerRecord, ...]:
    """What each layer became, read off the file: its nodes are named after it."""
    # what a recurrent layer holds, its cell and what is in it, is told as that layer's own
    holders = {entry.path: _holder(entry).path for entry in table}
    operators: dict[str, list[str]] = {}
    for node in model.graph.node:
        path = node.name.rpartition("/")[0]
        found = operators.setdefault(holders.get(path, path), [])
        found += [op_type for op_type in _operators(node) if op_type not in found]
    records = []
    for entry in table:
        form = sorted(operators.get(entry.path, []), key=_rank)
        inside = any(path.startswith(f"{entry.path}/") for path in operators)
        note = declined.get(entry.path, "")
        # a cell or a model is told by what holds it or by what it holds
        if form or note or not (inside or entry.parent):
            records.append(
                LayerRecord(entry.path, type(entry.layer).__name__, ", ".join(form), note)
            )
    return tuple(records)


def _operators(node: onnx.NodeProto) -> tuple[str, ...]:
    """The operator of a node; of an If also the recurrent ones that it chooses from."""
    branches = [a.g for a in node.attribute if node.op_type == "If"]
    inner = {n.op_type for branch in branches for n in branch.node}
    return (*sorted(inner & _RECURRENT), node.op_type)


def _holder(entry: LayerEntry) -> LayerEntry:
    """The outermost recurrent layer that holds a layer; the layer itself if none does."""
    found, parent = entry, entry.parent
    while parent is not None:
        if is_recurrent(parent.layer):
            found = parent
        parent = parent.parent
    return found


def _rank(operator: str) -> int:
    return _CHARACTERISTIC.index(operator) if operator in _CHARACTERISTIC else len(_CHARACTERISTIC)
