"""Stage 3, finish: names, dimensions, dead nodes and the manifest, on onnx-ir's model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from rnnonnx.errors import ExportError
from rnnonnx.manifest import METADATA_KEY, Dim, Manifest

from ._compat import own_variables
from ._constants import constant
from ._directions import MergeDirectionsPass
from ._fold import FoldPass, MergeEqualStepsPass
from ._forms import FormsPass
from ._hoist import HoistPass
from ._merge import MergeConvolutionsPass
from ._scan import MergeStepWeightsPass
from ._shapes import infer_shapes
from ._unique import UniqueNames
from ._views import ViewsPass
from ._widen import WidenPass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from ._forms import Optimize
    from ._layers import LayerTable
    from ._reduced import Reduction


_SMALL = 16  # elements of a constant that is worth comparing
# ONNX's own names for the outputs of the operators that have several.
_LSTM = ("Y", "Y_h", "Y_c")
_OUTPUT_NAMES = {
    "LSTM": _LSTM,
    "DynamicQuantizeLSTM": _LSTM,
    "GRU": ("Y", "Y_h"),
    "RNN": ("Y", "Y_h"),
}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the finished graph.

    Attributes:
        name: Its name.
        dtype: Element type by its numpy name.
        shape: Symbolic dimensions by name.
        traced: For an input, the name that it had in the trace (`input_0`, `state_0`).
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    traced: str = ""


def finish(
    proto: onnx.ModelProto,
    table: LayerTable,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    manifest: Manifest,
    optimize: Optimize,
    reduced: Reduction | None = None,
) -> onnx.ModelProto:
    """Turn tf2onnx's graph into the one that is written.

    Args:
        proto: From the lowering stage; outputs in order.
        table: The model's layers.
        inputs: What the graph's inputs are to be, in order, states last.
        outputs: Likewise for the outputs.
        manifest: Stored in the metadata.
        optimize: What the file is made for.
        reduced: The passes of a lower precision than float32.

    Raises:
        ExportError: A pass failed.
    """
    model = ir.from_proto(proto)
    # what a lower precision makes of recurrent operators has forms of its own
    forms = (
        FormsPass(optimize, {port.traced: port.shape for port in inputs}),
        _ShareIntegersPass(),
    )
    passes = ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        WidenPass(),
        _ShareIntegersPass(),
        common.IdentityEliminationPass(),
        FoldPass(),
        MergeEqualStepsPass(),
        MergeConvolutionsPass(),
        MergeStepWeightsPass(),
        ViewsPass(),
        common.RemoveUnusedNodesPass(),
        HoistPass(),
        FoldPass(),
        common.RemoveUnusedNodesPass(),
        *(reduced.passes if reduced else forms),
        common.CommonSubexpressionEliminationPass(size_limit=0),
        MergeEqualStepsPass(),
        MergeDirectionsPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
    )
    # NOTE: ports come after the passes. Two outputs may be one value by then, and onnx-ir's
    # identity elimination would rename an output that is already one.
    try:
        model = passes(model).model
    except ir.passes.PassError as error:
        raise ExportError(
            f"the model {manifest.source.model!r} cannot be exported: a pass over its graph failed,"
            f" which is a fault of rnnonnx ({_innermost(error)})",
            remedy="report it, with the classes of the model's layers",
        ) from error
    for inner in _subgraphs(model.graph):
        separate_outputs(inner)
    _set_inputs(model.graph, inputs)
    _set_outputs(model.graph, outputs)
    _forget_shapes(model.graph)
    _Namer(table, [port.name for port in (*inputs, *outputs)]).rename(model.graph)
    producer, version = manifest.producer.split(" ", 1)
    model.producer_name, model.producer_version = producer, version
    model.graph.name = manifest.source.model
    model.doc_string = model.graph.doc_string = None
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    infer_shapes(model)
    return ir.to_proto(model)


def _innermost(error: BaseException) -> str:
    """What an error of a pass comes from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]


class _ShareIntegersPass(ir.passes.InPlacePass):
    """Makes equal small integer constants (axes, shapes) one, so that equal nodes are seen.

    Weights are left alone: two layers with equal ones are two layers, each with its own.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph's initializers."""
        first: dict[tuple[Any, ...], ir.Value] = {}
        shared = False
        for value in list(model.graph.initializers.values()):
            array = constant(value)
            if array is None or array.dtype.kind not in "iub" or array.size > _SMALL:
                continue
            known = first.setdefault((array.dtype.str, array.shape, array.tobytes()), value)
            if known is not value and not value.is_graph_output():
                ir.convenience.replace_all_uses_with(value, known)
                shared = True
        return ir.passes.PassResult(model, modified=shared)


def _port_type(value: ir.Value, port: Port) -> None:
    value.dtype = ir.DataType.from_numpy(np.dtype(port.dtype))
    value.shape = ir.Shape(port.shape)
    value.name = port.name


def _set_inputs(graph: ir.Graph, ports: Sequence[Port]) -> None:
    found = {str(value.name).split(":")[0]: value for value in graph.inputs}
    # An input that nothing reads (a state that is only written) is gone from the trace, but
    # belongs to the model's interface.
    values = [found.get(port.traced) or ir.Value(name=port.name) for port in ports]
    graph.inputs.clear()
    graph.inputs.extend(values)
    # two steps, since a new name may be another input's old one
    for index, value in enumerate(values):
        value.name = f"\0{index}"
    for value, port in zip(values, ports, strict=True):
        _port_type(value, port)


def _set_outputs(graph: ir.Graph, ports: Sequence[Port]) -> None:
    separate_outputs(graph)
    for index, value in enumerate(graph.outputs):
        value.name = f"\0out{index}"
    for value, port in zip(graph.outputs, ports, strict=True):
        _port_type(value, port)


def separate_outputs(graph: ir.Graph) -> None:
    """Give an output that is an input, a constant or another output a value of its own."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(list(graph.outputs)):
        if value.graph is not graph or value.producer() is None or value in seen:
            node = ir.node("Identity", [value])
            node.outputs[0].name = f"{graph.name}/output{index}"
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(graph.outputs[index])


def _forget_shapes(graph: ir.Graph) -> None:
    """Drop what tf2onnx inferred, which names no dimensions; ONNX infers it again."""
    fixed = {*graph.inputs, *graph.outputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in fixed:
                value.shape = None
    for inner in _subgraphs(graph):
        for value in inner.inputs:
            if value.shape is not None:
                sizes = [size if isinstance(size, int) else None for size in value.shape]
                value.shape = ir.Shape(sizes)


class _Namer:
    """Names nodes, values and weights after the layers that they belong to."""

    def __init__(self, table: LayerTable, ports: Sequence[str]) -> None:
        self._table = table
        # unique in the whole model, subgraphs included
        self._values = UniqueNames(ports)
        self._nodes = UniqueNames()
        self._weights = _keras_weights(table)

    def rename(self, graph: ir.Graph) -> None:
        """Rename everything but the graph's inputs and outputs."""
        fixed = {*graph.inputs, *graph.outputs}
        nodes = list(graph.all_nodes())
        paths = self._paths(nodes)
        for index, initializer in enumerate(list(_initializers(graph))):
            base = self._weight_name(initializer, paths)
            initializer.name = f"\0init{index}"
            initializer.name = self._values.take(base)
        for node in nodes:
            path = paths.get(node)
            prefix = f"{path}/" if path else ""
            node.name = self._nodes.take(f"{prefix}{node.op_type}")
            names = _OUTPUT_NAMES.get(node.op_type)
            for index, value in enumerate(node.outputs):
                if value in fixed or value.name == "":
                    continue
                suffix = f".{names[index] if names else index}" if len(node.outputs) > 1 else ""
                value.name = self._values.take(f"{node.name}{suffix}")
        for inner in _subgraphs(graph):
            for value in inner.inputs:
                value.name = self._values.take(_tail(str(value.name)))

    def _paths(self, nodes: Sequence[ir.Node]) -> dict[ir.Node, str]:
        """The layer of each node; one that an optimizer made belongs to its neighbour's."""
        paths = {}
        for node in nodes:
            path = self._table.path_of_operation(str(node.name))
            if path:
                paths[node] = path
        for node in (*reversed(nodes), *nodes):
            if node not in paths:
                readers = [use.node for value in node.outputs for use in value.uses()]
                makers = [value.producer() for value in node.inputs if value is not None]
                near = [paths[other] for other in (*readers, *makers) if other in paths]
                if near:
                    paths[node] = near[0]
        for holder in nodes:
            for node in (inner for body in _bodies(holder) for inner in body):
                if node not in paths and holder in paths:
                    paths[node] = paths[holder]
        return paths

    def _weight_name(self, value: ir.Value, paths: dict[ir.Node, str]) -> str:
        readers = [paths[use.node] for use in value.uses() if use.node in paths]
        path = self._table.path_of_operation(str(value.name).split(":")[0])
        path = path or (readers[0] if readers else "")
        array = value.const_value.numpy() if value.const_value is not None else np.array(())
        for owner, name, weight in self._weights:
            ours = path == owner or path.startswith(f"{owner}/")
            # folding may have added axes of size 1
            if ours and weight.size == array.size and np.array_equal(weight.ravel(), array.ravel()):
                return f"{owner}/{name}"
        tail = _tail(str(value.name))
        return f"{path}/{tail}" if path else tail


def _tail(name: str) -> str:
    """The speaking part of a name that TensorFlow or tf2onnx made: `L2/axes__12:0` -> `axes`."""
    base = name.split(":")[0].removesuffix("/ReadVariableOp").rsplit("/", 1)[-1]
    base = re.sub(r"(__\d+)(_\d+)?$", "", base)
    return "const" if base.startswith("const_fold_opt") or not base else base


def _keras_weights(table: LayerTable) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """Layer path, name and value of every weight, innermost layers first."""
    found = []
    for entry in table:
        own = own_variables(entry.layer)
        found += [(entry.path, str(variable.name), np.asarray(variable)) for variable in own]
    return sorted(found, key=lambda item: -item[0].count("/"))


def _initializers(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for inner in _subgraphs(graph):
        yield from inner.initializers.values()


def _subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph.all_nodes():
        yield from _bodies(node)


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
