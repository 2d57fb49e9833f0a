"""Rounded weights of a file that are not the model's, by their names in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto, numpy_helper

from ._rounded import as_stored
from ._unrounded import graphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from ._rounded import Rounded

Array = np.ndarray[Any, np.dtype[Any]]

# What stands between integers and their scales.
_PASSES_ON: Final = frozenset(("Cast", "Gather", "MatMulInteger"))


def wrong_weights(model: onnx.ModelProto, found: Sequence[Rounded]) -> tuple[str, ...]:
    """What of a file's weights in int8 is not what the model's weights are rounded to, in words.

    Whether they are in their places is for a comparison of results to say: here each unit must
    have the integers and the scale of one of the model's.

    Args:
        model: The file.
        found: The model's weights that it has rounded.
    """
    units: dict[tuple[int, float], set[bytes]] = {}
    for item in found:
        if item.reading is None:
            continue
        rounded = item.reading.rounded
        keys = [np.sort(column).tobytes() for column in rounded.values.T]
        for scales in as_stored(rounded.scales.ravel()):
            for scale, key in zip(scales.tolist(), keys, strict=True):
                units.setdefault((len(rounded.values), scale), set()).add(key)
    known = {key for keys in units.values() for key in keys}
    told = []
    for name, values, scale_name, scales in _pairs(model):
        rows = values.shape[1]
        keys = [np.sort(unit).tobytes() for unit in values]
        bad = [
            index
            for index, (key, scale) in enumerate(zip(keys, scales.tolist(), strict=True))
            if key not in units.get((rows, scale), ())
        ]
        if bad:
            # integers that the model has are right: then it is their scale that is not
            scale_off = all(keys[index] in known for index in bad)
            told.append(
                f"{scale_name if scale_off else name!r}: the {'scales' if scale_off else 'weights'}"
                f" of {len(bad)} of {len(keys)} units are none that the model's weights round to"
            )
    return tuple(told)


def _pairs(model: onnx.ModelProto) -> Iterator[tuple[str, Array, str, Array]]:
    """Names and arrays of integers `[units, rows]`, and those of their scales `[units]`."""
    arrays = {item.name: item for item in model.graph.initializer}
    integers = {name for name, item in arrays.items() if item.data_type == TensorProto.INT8}
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    seen = set()
    for node in nodes:
        if node.op_type == "DynamicQuantizeLSTM":
            pairs = [(node.input[1], node.input[8]), (node.input[2], node.input[10])]
        else:
            pairs = [
                (name, scales)
                for name in node.input
                if name in integers and (scales := _scales(node, readers, arrays))
            ]
        for name, scales in pairs:
            if (name, scales) in seen or name not in arrays or scales not in arrays:
                continue
            seen.add((name, scales))
            values, factors = (numpy_helper.to_array(arrays[n]) for n in (name, scales))
            yield name, *_by_unit(values, factors, scales)


def _scales(
    node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], arrays: dict[str, Any]
) -> str:
    """The name of what scales the integers that a node reads; empty if nothing does."""
    while node.op_type in _PASSES_ON and readers.get(node.output[0]):
        (node, *_) = readers[node.output[0]]
    known = [name for name in node.input if name in arrays]
    return known[0] if node.op_type in ("Mul", "DequantizeLinear") and known else ""


def _by_unit(values: Array, scales: Array, name: str) -> tuple[Array, str, Array]:
    """Integers as `[units, rows]`, the name of their scales, and these as `[units]`."""
    if values.ndim == 3 and scales.ndim == 2:  # DynamicQuantizeLSTM: [directions, rows, units]
        scales = scales[:, None, :]
    scales = scales.reshape((1,) * (values.ndim - scales.ndim) + scales.shape)
    units = [axis for axis in range(values.ndim) if scales.shape[axis] > 1]
    moved = np.moveaxis(values, units, range(len(units)))
    return moved.reshape(scales.size, -1), name, scales.ravel()
