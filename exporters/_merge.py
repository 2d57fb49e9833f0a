"""A pass of the finish stage: the convolutions that a step makes of one value are one.

A convolutional LSTM has a kernel for each gate, and so four small convolutions of the same
state, each of which lays out its input anew. One with all kernels, and a Split behind it, takes
two thirds of the time (8 filters of 3 x 3). Where the parts of two such convolutions, that of the
inputs and that of the state, are added to each other, the wholes are added before one Split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from ._constants import constant, integers
from ._writer import Constants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
_CHANNELS = 1  # [batch, channels, ...]


class MergeConvolutionsPass(ir.passes.InPlacePass):
    """Merges them in the bodies of Scans. All constants are initializers of the main graph."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the bodies."""
        constants = Constants(model.graph)
        modified = False
        for body in model.graph.subgraphs():
            splits = [_merge(group, constants) for group in _parallel(body)]
            modified = modified or bool(splits)
            for pair in _added(splits):
                _add_before(*pair)
        return ir.passes.PassResult(model, modified=modified)


def _parallel(body: ir.Graph) -> list[list[ir.Node]]:
    """Convolutions of one value that differ in the values of kernels and biases alone."""
    groups: dict[object, list[ir.Node]] = {}
    for node in body:
        arrays = [constant(value) for value in node.inputs[1:]]
        known = node.op_type == "Conv" and all(array is not None for array in arrays)
        group = node.attributes.get("group")
        if known and arrays[0] is not None and (group is None or group.as_int() == 1):
            attributes = sorted((a.name, str(a.value)) for a in node.attributes.values())
            key = (node.inputs[0], str(attributes), arrays[0].shape)
            groups.setdefault(key, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def _merge(group: Sequence[ir.Node], constants: Constants) -> ir.Node:
    """One convolution in the place of several, and a Split that gives what they gave.

    Returns:
        The Split.
    """
    first = group[0]
    scope = str(first.name).rpartition("/")[0]
    kernels = [array for array in (constant(node.inputs[1]) for node in group) if array is not None]
    inputs = [first.inputs[0], constants.add(f"{scope}/kernels", np.concatenate(kernels))]
    if any(len(node.inputs) > 2 for node in group):
        biases = [_bias(node, kernel) for node, kernel in zip(group, kernels, strict=True)]
        inputs.append(constants.add(f"{scope}/biases", np.concatenate(biases)))
    conv = ir.Node("", "Conv", inputs, list(first.attributes.values()))
    lengths = np.array([len(kernel) for kernel in kernels], np.int64)
    whole = conv.outputs[0]
    whole.type = first.outputs[0].type
    whole.shape = _wider(first.outputs[0].shape, int(lengths.sum()))
    parts = constants.add(f"{scope}/split", lengths)
    split = _split(whole, parts, [node.outputs[0] for node in group])
    conv.name, split.name = first.name, first.name
    assert first.graph is not None  # noqa: S101 - it is a node of the body
    first.graph.insert_before(first, [conv, split])
    first.graph.remove(group, safe=True)
    return split


def _bias(conv: ir.Node, kernel: Array) -> Array:
    """Its bias; tf2onnx leaves out one that is zero."""
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return np.zeros(len(kernel), kernel.dtype) if bias is None else bias


def _split(whole: ir.Value, parts: ir.Value, replaced: Sequence[ir.Value]) -> ir.Node:
    """A Split of the channels whose outputs take the places of others."""
    axis = [ir.AttrInt64("axis", _CHANNELS)]
    split = ir.Node("", "Split", [whole, parts], axis, num_outputs=len(replaced))
    for old, new in zip(replaced, split.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    return split


def _added(splits: Sequence[ir.Node]) -> Iterator[tuple[ir.Node, ir.Node, list[ir.Node]]]:
    """Pairs of Splits all of whose parts are added to each other and used nowhere else.

    Args:
        splits: Those of one body that `_merge` has made: of channels, with their lengths.

    Yields:
        Two Splits and the sums, in the order of the parts.
    """
    left = list(splits)
    while left:
        one = left.pop()
        for other in left:
            sums = [_sum(*parts) for parts in zip(one.outputs, other.outputs, strict=False)]
            found = [add for add in sums if add is not None]
            paired = len(one.outputs) == len(other.outputs) == len(found)
            same = integers(one.inputs[1]) == integers(other.inputs[1])
            if paired and same and _same_shape(one, other):
                left.remove(other)
                yield one, other, found
                break


def _sum(first: ir.Value, second: ir.Value) -> ir.Node | None:
    """The node that adds two values, if nothing else uses either."""
    uses = [*first.uses(), *second.uses()]
    adds = {use.node for use in uses if use.node.op_type == "Add"}
    alone = not first.is_graph_output() and not second.is_graph_output()
    if not alone or len(uses) != 2 or len(adds) != 1:
        return None
    [add] = adds
    return add if set(add.inputs) == {first, second} else None


def _same_shape(one: ir.Node, other: ir.Node) -> bool:
    """Whether the wholes are of one shape, so that their sum is not of a larger one.

    Their batch is that of the step, under a name for each.
    """
    first, second = (
        [size if isinstance(size, int) else None for size in whole.shape or ()]
        for whole in (one.inputs[0], other.inputs[0])
        if whole is not None
    )
    return bool(first) and first == second and None not in first[1:]


def _add_before(one: ir.Node, other: ir.Node, sums: Sequence[ir.Node]) -> None:
    """Add the wholes and split the sum."""
    add = ir.Node("", "Add", [one.inputs[0], other.inputs[0]], name=sums[0].name)
    whole, like = add.outputs[0], one.inputs[0]
    assert like is not None  # noqa: S101 - a Split has an input
    assert one.inputs[1] is not None  # noqa: S101 - and lengths
    whole.type, whole.shape = like.type, like.shape
    split = _split(whole, one.inputs[1], [node.outputs[0] for node in sums])
    split.name = one.name
    graph = one.graph
    assert graph is not None  # noqa: S101 - it is a node of the body
    graph.insert_after(max(one, other, key=list(graph).index), [add, split])
    graph.remove([*sums, one, other], safe=True)


def _wider(shape: ir.Shape | None, channels: int) -> ir.Shape | None:
    """A shape with another number of channels."""
    if shape is None:
        return None
    return ir.Shape([channels if axis == _CHANNELS else size for axis, size in enumerate(shape)])
