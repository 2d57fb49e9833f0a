"""A file in a lower precision as it would be in real numbers: nothing rounded while it runs.

Weights stay as the file has them, rounded. What the file rounds between them (the rows that it
multiplies integers with, what it casts to float16) is taken as it comes: each operator that
rounds is replaced by the function that it rounds, in float32, with its own scales and zero
points. So what is left must be what Keras computes with the same weights, to the last digits
that float32 has, and a wrong scale, gate or zero point is not hidden by the rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnnonnx.errors import UnsupportedLayerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_ROUNDING = frozenset(
    (
        *("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
        *("QLinearMatMul", "QLinearConv", "Round", "DynamicQuantizeLSTM"),
        *("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    )
)


def rounds(node: onnx.NodeProto) -> bool:
    """Whether a node, or one inside of it, rounds what it reads: to integers, or to float16."""
    inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return (
        node.op_type in _ROUNDING
        or _casts_to_half(node)
        or any(rounds(each) for graph in inner for each in graph.node)
    )


def unrounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same file, without the rounding while it runs.

    Args:
        model: In int8 or float16, as this project writes them. It is left as it is.

    Raises:
        UnsupportedLayerError: It rounds in a way that this project does not write.
    """
    real = onnx.ModelProto()
    real.CopyFrom(model)
    weights = {item.name: item for item in real.graph.initializer}
    # the innermost first: to give a graph other nodes is to copy those that it keeps
    for graph in reversed(list(graphs(real.graph))):
        del graph.value_info[:]  # of other types now
        for item in graph.initializer:
            _widen(item)
        for port in (*graph.input, *graph.output):
            tensor = port.type.tensor_type
            tensor.elem_type = _FLOAT if tensor.elem_type == _HALF else tensor.elem_type
        nodes = [new for node in graph.node for new in _real(node, real, weights)]
        del graph.node[:]
        graph.node.extend(nodes)
    return real


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def _casts_to_half(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == _HALF for a in node.attribute)


def _widen(item: TensorProto) -> None:
    """Make float32 of a tensor of float16."""
    if item.data_type == _HALF:
        array = numpy_helper.to_array(item).astype(np.float32)
        item.CopyFrom(numpy_helper.from_array(array, item.name))


def _real(
    node: onnx.NodeProto, model: onnx.ModelProto, weights: dict[str, TensorProto]
) -> list[onnx.NodeProto]:
    """What computes in real numbers what a node rounds; the node itself if it does not."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name == "to" and attribute.i == _HALF:
            attribute.i = _FLOAT
    make = {
        "QuantizeLinear": _quantize,
        "MatMulInteger": _product,
        "DynamicQuantizeLSTM": _lstm,
    }.get(node.op_type)
    if make is not None:
        return make(_Place(node, model, weights))
    if node.op_type in _ROUNDING:
        raise UnsupportedLayerError(
            f"the node {node.name!r} rounds by the operator {node.op_type}, which is in no file "
            "that this project writes: what it computes cannot be checked",
            expected="QuantizeLinear, MatMulInteger or DynamicQuantizeLSTM",
            remedy="export the model anew",
        )
    return [node]


class _Place:
    """A node that is to be replaced."""

    def __init__(
        self, node: onnx.NodeProto, model: onnx.ModelProto, weights: dict[str, TensorProto]
    ) -> None:
        self.node = node
        self._model = model
        self._weights = weights
        self._count = 0
        self.nodes: list[onnx.NodeProto] = []

    def input(self, index: int) -> str:
        """The name of an input; empty if there is none."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def add(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """A node of the same layer; returns its output."""
        self._count += 1
        name = f"{self.node.name}.real{self._count}"
        made = helper.make_node(op_type, inputs, [output or name], name=name, **attributes)
        self.nodes.append(made)
        return output or name

    def real(self, value: str) -> str:
        """A number of integers as float32."""
        return self.add("Cast", [value], to=_FLOAT)

    def array(self, index: int) -> Any:
        """A weight of the node.

        Raises:
            UnsupportedLayerError: It is computed.
        """
        item = self._weights.get(self.input(index))
        if item is None:
            raise UnsupportedLayerError(
                f"the node {self.node.name!r} ({self.node.op_type}) computes the weight "
                f"{self.input(index)!r}: it cannot be checked",
                expected="a constant",
                remedy="export the model anew",
            )
        return numpy_helper.to_array(item)

    def constant(self, name: str, array: Any) -> str:
        """A weight more."""
        full = f"{self.node.name}.{name}"
        self._model.graph.initializer.append(numpy_helper.from_array(array, full))
        return full


def _quantize(place: _Place) -> list[onnx.NodeProto]:
    """QuantizeLinear: `x / scale + zero`, neither rounded nor held within the integers' range."""
    shares = place.add("Div", [place.input(0), place.input(1)])
    zero = place.input(2)
    if zero:
        place.add("Add", [shares, place.real(zero)], place.node.output[0])
    else:
        place.add("Identity", [shares], place.node.output[0])
    return place.nodes


def _product(place: _Place) -> list[onnx.NodeProto]:
    """MatMulInteger: the product of what remains of both sides without their zero points."""
    sides = []
    for index in (0, 1):
        side, zero = place.real(place.input(index)), place.input(index + 2)
        sides.append(place.add("Sub", [side, place.real(zero)]) if zero else side)
    place.add("MatMul", sides, place.node.output[0])
    return place.nodes


def _lstm(place: _Place) -> list[onnx.NodeProto]:
    """DynamicQuantizeLSTM: the operator LSTM with the weights that the integers stand for."""
    inputs = [place.input(index) for index in range(8)]
    for index, scale in ((1, 8), (2, 10)):
        values, scales, zeros = (place.array(i) for i in (index, scale, scale + 1))
        # scales and zero points are [directions] or [directions, 4 * units]
        by_unit = [a.reshape(*a.shape, *[1] * (2 - a.ndim))[:, None] for a in (scales, zeros)]
        wide = (values.astype(np.float32) - by_unit[1].astype(np.float32)) * by_unit[0]
        # [directions, rows, 4 * units] -> [directions, 4 * units, rows]
        turned = np.ascontiguousarray(wide.transpose(0, 2, 1).astype(np.float32))
        inputs[index] = place.constant("WR"[index - 1], turned)
    made = helper.make_node("LSTM", inputs, place.node.output, name=place.node.name)
    made.attribute.extend(place.node.attribute)
    return [*place.nodes, made]
