"""A pass of the finish stage: shapes and views in as few nodes as they need.

tf2onnx computes the shapes that it reshapes to from those of the inputs, also where every size
but one is known, and puts Reshape, Squeeze and Unsqueeze behind each other. In the body of a Scan
all that is done in every step, and what reshapes to a computed shape cannot move out of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from ._constants import constant, integers
from ._writer import Constants, NodeWriter, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")
_SHAPE_FROM = 15  # the opset from which Shape takes a range of axes


@dataclass(frozen=True, slots=True)
class Size:
    """A size that is not known: that of an axis of a value."""

    value: ir.Value
    axis: int


Sizes: TypeAlias = "list[int | Size]"


class ViewsPass(ir.passes.InPlacePass):
    """Makes shapes constant, one view of several, and the shapes that are left from few nodes.

    All constants are initializers by now. What is no longer read is left, for the pass that
    removes unused nodes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it."""
        constants, opset = Constants(model.graph), model.opset_imports[""]
        modified = False
        for node in list(model.graph.all_nodes()):
            writer = NodeWriter(node, constants, opset)
            if node.op_type in _VIEWS:
                modified = _one_view(writer, node) or modified
            elif node.op_type in ("Expand", "ConstantOfShape") and opset >= _SHAPE_FROM:
                modified = _few_nodes(writer, node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _one_view(writer: NodeWriter, node: ir.Node) -> bool:
    """Reshape to a constant shape, from the first value of several views; whether it could."""
    target, source = _target(node), node.inputs[0]
    if target is None or source is None:
        return False
    # a 0 in the shape stands for a size of the view before
    maker = source.producer()
    while 0 not in target and maker is not None and maker.op_type in _VIEWS:
        source = maker.inputs[0]
        assert source is not None  # noqa: S101 - a view has an input
        maker = source.producer()
    first = source is node.inputs[0]
    if first and (node.op_type != "Reshape" or integers(node.inputs[1]) is not None):
        return False
    shape = writer.const("shape", target, np.int64)
    (old,) = node.outputs
    new = source if _is_shape(source, target) else writer.node("Reshape", [source, shape])
    if new is not source:
        new.type, new.shape = old.type, old.shape
    replace(old, new)
    return True


def _is_shape(value: ir.Value, target: Sequence[int]) -> bool:
    """Whether a value has that shape already."""
    if value.shape is None or len(value.shape) != len(target):
        return False
    sizes = [size if isinstance(size, int) else -1 for size in value.shape]
    return sizes == list(target)


def _target(node: ir.Node) -> list[int] | None:
    """The shape that a view gives, -1 for a size that is not known; None if that says too little.

    Of Squeeze and Unsqueeze only where a Reshape is before them.
    """
    if node.op_type == "Reshape":
        sizes = _sizes(node.inputs[1])
        if sizes is None or "allowzero" in node.attributes:
            return None
        target = [size if isinstance(size, int) else -1 for size in sizes]
        return target if target.count(-1) <= 1 else None
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    before = _target(maker) if maker is not None and maker.op_type in _VIEWS else None
    if before is None or axes is None:
        return None
    rank = len(before) + len(axes) * (node.op_type == "Unsqueeze")
    places = sorted(axis % rank for axis in axes)
    if node.op_type == "Unsqueeze":
        left = iter(before)
        return [1 if place in places else next(left) for place in range(rank)]
    return [size for place, size in enumerate(before) if place not in places]


def _few_nodes(writer: NodeWriter, node: ir.Node) -> bool:
    """Have the shape that a node reads from a Shape for each range of axes; whether that helps."""
    position = 1 if node.op_type == "Expand" else 0
    given = node.inputs[position]
    sizes = _sizes(given)
    maker = given.producer() if given is not None else None
    if sizes is None or maker is None:
        return False
    makers = [value.producer() for value in maker.inputs if value is not None]
    if maker.op_type == "Concat" and all(m is None or m.op_type == "Shape" for m in makers):
        return False
    parts: list[ir.Value] = []
    for value, group in itertools.groupby(
        sizes, lambda s: s.value if isinstance(s, Size) else None
    ):
        items = list(group)
        if value is None:
            parts.append(writer.const("sizes", items, np.int64))
            continue
        axes = [item.axis for item in items if isinstance(item, Size)]
        if axes != list(range(axes[0], axes[0] + len(axes))):
            return False
        parts.append(writer.node("Shape", [value], start=axes[0], end=axes[-1] + 1))
    joined = parts[0] if len(parts) == 1 else writer.node("Concat", parts, axis=0)
    node.replace_input_with(position, joined)
    return True


def _sizes(value: ir.Value | None) -> Sizes | None:
    """A shape, or a part of one, that is computed; None if it is not made of sizes alone."""
    known = constant(value)
    maker = value.producer() if value is not None else None
    if known is not None and known.dtype.kind in "iu" and known.ndim <= 1:
        return [int(size) for size in known.ravel()]
    if maker is None or not maker.inputs:
        return None
    if maker.op_type == "Shape":
        return _shape(maker)
    if maker.op_type == "Concat" and maker.attributes["axis"].as_int() == 0:
        parts = [_sizes(item) for item in maker.inputs]
        found = [part for part in parts if part is not None]
        return [size for part in found for size in part] if len(found) == len(parts) else None
    sizes = _sizes(maker.inputs[0])
    rest = [integers(item) for item in maker.inputs[1:]]
    if sizes is None or None in rest:
        return None
    arguments = [item for item in rest if item is not None]
    return _part(maker, sizes, arguments)


def _part(maker: ir.Node, sizes: Sizes, arguments: Sequence[list[int]]) -> Sizes | None:
    """What a node with constant further inputs makes of a shape."""
    match maker.op_type:
        case "Cast" if maker.attributes["to"].as_int() in (ir.DataType.INT32, ir.DataType.INT64):
            return sizes
        case "Squeeze" | "Identity":
            return sizes
        case "Unsqueeze" if len(sizes) == 1:
            return sizes
        case "Gather":
            return [sizes[index] for index in arguments[0]]
        case "Slice" if len(arguments) < 4 or arguments[3] == [1]:
            return sizes[arguments[0][0] : arguments[1][0]]
        case "ReduceProd" if all(isinstance(size, int) for size in sizes):
            return [int(np.prod([size for size in sizes if isinstance(size, int)]))]
    return None


def _shape(maker: ir.Node) -> Sizes | None:
    """All sizes of a value of known rank."""
    value = maker.inputs[0]
    if value is None or value.shape is None:
        return None
    sizes: Sizes = [
        size if isinstance(size, int) else Size(value, axis)
        for axis, size in enumerate(value.shape)
    ]
    begin, end = (maker.attributes.get(name) for name in ("start", "end"))
    return sizes[begin.as_int() if begin else 0 : end.as_int() if end else len(sizes)]
