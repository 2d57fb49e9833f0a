"""TensorFlow operations that tf2onnx converts not at all, or to far more than they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ._builder import GraphBuilder
from .lowerings._loop import reversed_along


def convert_erfc(graph: Any, node: Any, _name: str, _args: Any) -> None:
    """`Erfc`, with which Keras computes the exact gelu, as `1 - Erf`: tf2onnx has no handler."""
    one = np.ones((), onnx.helper.tensor_dtype_to_np_dtype(node.output_dtypes[0]))
    source, finish = node.input[0], _take_out(graph, node)
    builder = GraphBuilder(graph, node.name.rsplit("/", 1)[0], {})
    finish(builder.node("Sub", [builder.const("one", one), builder.node("Erf", [source])]))


def convert_expm1(graph: Any, node: Any, _name: str, _args: Any) -> None:
    """`Expm1`, with which Keras computes celu, as `Exp - 1`: tf2onnx has no handler."""
    one = np.ones((), onnx.helper.tensor_dtype_to_np_dtype(node.output_dtypes[0]))
    source, finish = node.input[0], _take_out(graph, node)
    builder = GraphBuilder(graph, node.name.rsplit("/", 1)[0], {})
    finish(builder.node("Sub", [builder.node("Exp", [source]), builder.const("one", one)]))


def convert_reverse(graph: Any, node: Any, _name: str, _args: Any) -> None:
    """`ReverseV2` as a Slice for each axis; tf2onnx makes a ReverseSequence and its lengths."""
    rank = len(graph.get_shape(node.input[0]))
    axes = np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False))
    value, finish = node.input[0], _take_out(graph, node)
    builder = GraphBuilder(graph, node.name.rsplit("/", 1)[0], {})
    for axis in axes:
        value = reversed_along(builder, value, axis=int(axis) % rank)
    finish(value)


def _take_out(graph: Any, node: Any) -> Any:
    """Remove a node; what is returned gives another value its output's name and type."""
    (result,), shape, dtype = list(node.output), node.output_shapes[0], node.output_dtypes[0]
    graph.remove_node(node.name)

    def finish(value: str) -> None:
        GraphBuilder(graph, node.name.rsplit("/", 1)[0], {}).node(
            "Identity", [value], output=result
        )
        graph.set_dtype(result, dtype)
        if shape is not None:
            graph.set_shape(result, shape)

    return finish
