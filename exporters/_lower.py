"""Stage 2, lowering: a traced TensorFlow function becomes an ONNX graph.

tf2onnx converts what has no lowering. Markers become the nodes that their lowering emits.
An operation that tf2onnx cannot convert is an error that names the layer.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import onnx
import tensorflow as tf
from tf2onnx import optimizer, tf_loader, tfonnx

from rnnonnx.errors import ExportError, UnsupportedLayerError

from ._builder import GraphBuilder
from ._compat import casts_kept, node_of_failure, numpy_object_alias, quiet_tf2onnx
from ._conversions import convert_erfc, convert_reverse
from ._scan import as_body
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._capture import Trace
    from ._layers import LayerTable
    from ._tracer import Marker

_REMEDY = (
    "replace the layer by one that computes the same with simpler operations, or write a "
    "lowering for it (CONTRIBUTING.md says how)"
)


def lower(trace: Trace, table: LayerTable, *, opset: int) -> onnx.ModelProto:
    """Convert a trace.

    Args:
        trace: What `capture` made with the lowerings.
        table: The model's layers, to name them in errors.
        opset: The ONNX opset to write.

    Returns:
        A model whose inputs and outputs are in the trace's order, under TensorFlow's names;
        names of nodes hold the scopes of the layers.

    Raises:
        UnsupportedLayerError: tf2onnx cannot convert an operation.
        ExportError: A lowering failed.
    """
    constants: dict[tuple[Any, ...], str] = {}
    bodies: dict[str, onnx.GraphProto] = {}
    # A step that holds a marked loop itself was traced, and so comes, after that loop.
    for token, marker in trace.markers.items():
        if marker.step is not None:
            model = _convert(marker.step, trace.markers, bodies, constants, table, opset)
            bodies[token] = as_body(model, token)
    return _convert(trace.function, trace.markers, bodies, constants, table, opset)


def _convert(
    function: Any,
    markers: Mapping[str, Marker],
    bodies: Mapping[str, onnx.GraphProto],
    constants: dict[tuple[Any, ...], str],
    table: LayerTable,
    opset: int,
) -> onnx.ModelProto:
    """Convert one traced function: the model, or the step of a loop."""
    inputs = [t.name for t in function.inputs if t.dtype != tf.resource]
    outputs = [t.name for t in function.outputs]

    def replace_marker(graph: Any, node: Any, _name: str, _args: Any) -> None:
        token = node.get_attr("token").s.decode()
        names, results = list(node.input), list(node.output)
        shapes, dtypes = list(node.output_shapes), list(node.output_dtypes)
        graph.remove_node(node.name)
        scope = node.name.rsplit("/", 1)[0]
        builder = GraphBuilder(graph, scope, constants, body=bodies.get(token))
        markers[token].emit(builder, names, results)
        for result, shape, dtype in zip(results, shapes, dtypes, strict=True):
            graph.set_dtype(result, dtype)
            if shape is not None:
                graph.set_shape(result, shape)

    with (
        tf.device("/cpu:0"),
        quiet_tf2onnx(),
        numpy_object_alias(),
        casts_kept(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # tf2onnx's own use of NumPy and protobuf
        try:
            frozen = tf_loader.from_function(function, inputs, outputs)
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(frozen, name="")
                converted = tfonnx.process_tf_graph(
                    graph,
                    continue_on_error=False,
                    opset=opset,
                    custom_op_handlers={
                        "PyFunc": _ours(replace_marker),
                        "Erfc": _ours(convert_erfc),
                        "ReverseV2": _ours(convert_reverse),
                    },
                    input_names=inputs,
                    output_names=outputs,
                )
                _refuse_unconverted(converted, table)
                optimized = optimizer.optimize_graph(converted, optimizers=_optimizers())
                model: onnx.ModelProto = optimized.make_model("rnnonnx")
        except UnsupportedLayerError:
            raise
        except _OwnError as error:
            cause = error.__cause__
            raise ExportError(
                f"{_where(table, error.node)}: its lowering failed: {error}",
                received=type(cause).__name__,
                remedy="this is a mistake of rnnonnx, not of the model: please report it with "
                "the model",
            ) from cause
        except Exception as error:
            node = node_of_failure(error)
            raise UnsupportedLayerError(
                f"{_where(table, node) if node else 'the model'}: tf2onnx could not convert "
                f"{node.rpartition('/')[2] or 'it'!r}: {one_line(error)}",
                received=type(error).__name__,
                remedy=_REMEDY,
            ) from error
    return model


class _OwnError(Exception):
    """What was raised by our own part of a conversion, and the node that it was converting."""

    def __init__(self, node: str, error: Exception) -> None:
        super().__init__(one_line(error))
        self.node = node


def _ours(handler: Callable[..., None]) -> tuple[Callable[..., None], list[Any]]:
    """A handler for tf2onnx; its errors are told from those of tf2onnx."""

    def run(graph: Any, node: Any, name: str, args: Any) -> None:
        try:
            handler(graph, node, name, args)
        except Exception as error:
            raise _OwnError(name, error) from error

    return run, []


def _where(table: LayerTable, node: str) -> str:
    path = table.path_of_operation(node)
    return f"layer {path!r}" if path else "the model's own call (outside of any layer)"


def _optimizers() -> dict[str, Any]:
    """tf2onnx's optimizers but the one that merges equal constants.

    Two layers with equal weights (fresh biases, say) are two layers, and `inspect` counts
    the parameters of both.
    """
    known = optimizer._get_optimizers()  # noqa: SLF001 - there is no public list
    return {name: make for name, make in known.items() if name != "merge_duplication"}


def _refuse_unconverted(graph: Any, table: LayerTable) -> None:
    """Find what tf2onnx left as it was; it logs those and goes on."""
    graph.delete_unused_nodes(graph.outputs)  # some handlers leave the old node behind
    for node in graph.get_nodes():
        for body in (node.get_body_graphs() or {}).values():
            _refuse_unconverted(body, table)
        if node.is_const() or node.is_graph_input() or node.domain not in ("", "ai.onnx"):
            known = node.is_const() or node.is_graph_input()
        else:
            known = onnx.defs.has(node.type)
        if not known:
            raise UnsupportedLayerError(
                f"{_where(table, node.name)}: tf2onnx cannot convert the TensorFlow operation "
                f"{node.type!r}",
                remedy=_REMEDY,
            )
