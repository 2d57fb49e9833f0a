"""Whether what was parsed as ONNX can be read: damage that protobuf does not see.

ONNX's own checker is no help here: it refuses operators of other domains, newer operator sets
and weights in other files, all of which can be read and shown. What is checked is what this
package reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ._extras import require
from ._parameters import subgraphs
from .errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT: Final = 9  # FieldDescriptor.TYPE_STRING
_MESSAGE: Final = 11  # FieldDescriptor.TYPE_MESSAGE


def check_readable(model: Any, label: str) -> None:
    """Check the parts of an `onnx.ModelProto` that are read here.

    Args:
        model: The model.
        label: How a message names it.

    Raises:
        ModelFileError: A text is no UTF-8, an element type is none that ONNX knows, a size is
            negative, or a node gives nothing.
    """
    onnx = require("onnx", extra="onnx", purpose="reading an ONNX graph")
    for text in _texts(model):
        # NOTE: what is no UTF-8 protobuf gives as bytes, or not at all, by its implementation.
        if isinstance(text, bytes):
            raise _damaged(label, f"a text in it is no UTF-8: {text!r}")
    known = set(onnx.TensorProto.DataType.values())
    for graph in _graphs(model.graph):
        _check_graph(graph, known, label)


def _check_graph(graph: Any, known: set[int], label: str) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        kind = value.type.tensor_type
        if kind.elem_type not in known:
            raise _damaged(label, f"{value.name!r} has the element type {kind.elem_type}")
        if any(dim.dim_value < 0 for dim in kind.shape.dim):
            raise _damaged(label, f"{value.name!r} has a negative size")
    for node in graph.node:
        if not node.output:
            raise _damaged(label, f"the node {node.name or node.op_type!r} gives nothing")
    for tensor in _tensors(graph):
        if tensor.data_type not in known or not tensor.data_type:
            raise _damaged(label, f"the tensor {tensor.name!r} has no element type that is known")
        if any(size < 0 for size in tensor.dims):
            raise _damaged(label, f"the tensor {tensor.name!r} has a negative size")


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from _graphs(body)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _texts(message: Any) -> Iterator[Any]:
    """Every text of a message and those in it."""
    try:
        fields = message.ListFields()
    except UnicodeDecodeError as error:
        yield error.object
        return
    for field, value in fields:
        if field.type == _TEXT:
            yield from [value] if isinstance(value, str | bytes) else value
        elif field.type == _MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                if field.message_type.name == "TensorProto":
                    # not `ListFields`, which would copy the weights
                    yield part.name
                    yield from (
                        text for item in part.external_data for text in (item.key, item.value)
                    )
                else:
                    yield from _texts(part)


def _damaged(label: str, why: str) -> ModelFileError:
    return ModelFileError(f"{label} is damaged: {why}", expected="a valid ONNX file")
