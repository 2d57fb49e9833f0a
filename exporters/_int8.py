"""Weights as int8: how they are rounded, and how operators take them.

A weight is `values * scales`, with one scale for each column (each unit of the layer) and no
zero point. Either the product is made of integers: then what it is multiplied with is rounded
when the model runs, each row (each step of each sequence) by a scale of its own, so that a row's
result depends on that row alone, whatever else is in the batch or in the chunk. Or the weight
is made float32 again when the file is loaded, and what it is multiplied with is not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from ._writer import NodeWriter

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = 127  # of int8 on either side of zero
_ZERO = 128  # the uint8 that stands for zero
# An int32 holds the sum of so many products of a uint8 and an int8.
MOST_ROWS = np.iinfo(np.int32).max // (255 * STEPS)


@dataclass(frozen=True, slots=True)
class Int8:
    """A weight.

    Attributes:
        values: int8, of the weight's shape.
        scales: float32, broadcast over the values.
    """

    values: Array
    scales: Array


def by_columns(weight: Array) -> Int8:
    """Round a weight `[rows, columns]` of a product of integers, a scale for each column.

    NOTE: a scale is such that two weights of one sign in neighbouring rows sum up to 128 at most,
    and not that the largest becomes 127. x86 processors with AVX2 and without VNNI multiply
    pairs of uint8 and int8 and add them in 16 bits, which saturates from 32767 on: 255 * 128
    does not reach it. Without this a file would be right here and wrong there. It costs at
    most one of the eight bits.
    """
    # in float64, where no sum of two is infinite
    padded = np.pad(weight.astype(np.float64), [(0, weight.shape[0] % 2), (0, 0)])
    first, second = padded[0::2], padded[1::2]
    above = np.maximum(first, 0) + np.maximum(second, 0)
    below = np.minimum(first, 0) + np.minimum(second, 0)
    return _rounded(weight, np.maximum(above, -below).max(axis=0, initial=0.0))


def along(weight: Array, axes: tuple[int, ...]) -> Int8:
    """Round a weight that will be float32 again, a scale for all that these axes hold.

    The scales keep the weight's rank.
    """
    return _rounded(weight, np.abs(weight).max(axis=axes, keepdims=True, initial=0.0))


def _rounded(weight: Array, largest: Array) -> Int8:
    scales = (largest / STEPS).astype(np.float32)
    scales = np.where(scales > 0, scales, np.float32(1))  # zeros, or as good as
    return Int8(np.rint(weight / scales).astype(np.int8), scales)


def stored(writer: NodeWriter, name: str, weight: Array, axes: tuple[int, ...]) -> ir.Value:
    """A weight stored as int8, by ONNX's Cast and Mul (versions 13 and 14); float32.

    NOTE: not by DequantizeLinear. ONNX Runtime computes a Cast and a Mul of constants once, when it
    loads the file, and so knows a constant weight; a DequantizeLinear it leaves for every call.

    Args:
        writer: Where the nodes go.
        name: What the weight is called.
        weight: float32.
        axes: Those that the operator sums over: a scale is for one unit.
    """
    rounded = along(weight, axes)
    values = writer.const(f"{name}_int8", rounded.values)
    scales = writer.const(f"{name}_scales", rounded.scales)
    return writer.node("Mul", [writer.node("Cast", [values], to=_FLOAT), scales])


def product(writer: NodeWriter, left: ir.Value, weight: Array) -> ir.Value:
    """`left @ weight` by ONNX's MatMulInteger (version 10); float32 `[..., columns]`.

    Args:
        writer: Where the nodes go.
        left: float32 `[..., rows]`.
        weight: float32 `[rows, columns]`.
    """
    rounded = by_columns(weight)
    size = writer.node("Abs", [left])
    if writer.opset < 18:
        largest = writer.node("ReduceMax", [size], axes=[-1], keepdims=1)
    else:
        largest = writer.node("ReduceMax", [size, writer.integers(-1)], keepdims=1)
    # a row of zeros would be divided by zero
    tiny = writer.const("tiny", np.array(np.finfo(np.float32).tiny))
    largest = writer.node("Max", [largest, tiny])
    shares = writer.node("Div", [left, largest])  # from -1 to 1
    step = writer.const("step", np.array(1 / STEPS, np.float32))
    zero = writer.const("zero", np.array(_ZERO, np.uint8))
    small = writer.node("QuantizeLinear", [shares, step, zero])
    values = writer.const("int8", rounded.values)
    whole = writer.node("MatMulInteger", [small, values, zero])
    scales = writer.const("scales", (rounded.scales / STEPS).astype(np.float32))
    result = writer.node("Mul", [writer.node("Cast", [whole], to=_FLOAT), scales])
    return writer.node("Mul", [result, largest])


def lookup(writer: NodeWriter, table: Array, indices: ir.Value) -> ir.Value:
    """Rows of a table by ONNX's Gather and DequantizeLinear (version 13); float32 `[..., columns]`.

    Args:
        writer: Where the nodes go.
        table: float32 `[rows, columns]`.
        indices: Integers `[...]`.
    """
    rounded = along(table, (0,))
    values = writer.node("Gather", [writer.const("int8", rounded.values), indices], axis=0)
    scales = writer.const("scales", rounded.scales[0])
    return writer.node("DequantizeLinear", [values, scales], axis=-1)


def lstm(writer: NodeWriter, node: ir.Node, weights: tuple[Array, Array]) -> list[ir.Value]:
    """An LSTM by ONNX Runtime's DynamicQuantizeLSTM (com.microsoft, version 1); its outputs.

    It rounds the sequences by one scale for the whole call, and h by one for each step: a row
    is rounded a little differently in another batch or chunk.

    Args:
        writer: Where the node goes.
        node: The LSTM.
        weights: Its W `[directions, 4 * units, features]` and R `[directions, 4 * units, units]`,
            float32; DynamicQuantizeLSTM has the last two axes the other way round.
    """
    sources: list[ir.Value | None] = [*node.inputs, *[None] * (8 - len(node.inputs))]
    scales: list[ir.Value] = []
    for position, (name, weight) in enumerate(zip("WR", weights, strict=True), start=1):
        rounded = [by_columns(direction.T) for direction in weight]
        values = np.stack([each.values for each in rounded])
        by_unit = np.stack([each.scales for each in rounded])
        sources[position] = writer.const(f"{name}_int8", values)
        scales.append(writer.const(f"{name}_scales", by_unit))
        scales.append(writer.const(f"{name}_zero", np.zeros(by_unit.shape, np.int8)))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return writer.nodes(
        "DynamicQuantizeLSTM",
        [*sources, *scales],
        count=len(node.outputs),
        domain="com.microsoft",
        **attributes,
    )


_FLOAT = 1  # onnx.TensorProto.FLOAT
