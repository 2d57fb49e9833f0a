"""Which part of a recurrent layer a weight of a file is, and which gates of it.

A layer is an operator, or a Scan over its steps; its weights may be rounded. All keep the gates in
the operators' order; a Scan in int8 of a GRU that resets before its product has gate h in a product
of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._parity import Array

# The operators' order of gates, along their weights.
_GATES: Final = {
    "LSTM": ("i", "o", "f", "c"),
    "DynamicQuantizeLSTM": ("i", "o", "f", "c"),
    "GRU": ("z", "r", "h"),
    "RNN": ("h",),
    "SimpleRNN": ("h",),
}
_HALVES: Final = ("forward", "backward")
_PARTS: Final = {1: "kernel", 2: "recurrent kernel", 3: "bias"}
# What an operator of rounded weights takes beside them: scales and zero points.
_ROUNDED: Final = {8: 1, 9: 1, 10: 2, 11: 2}
# What products of a layer's inputs, and in the body of a Scan those of its state, call a weight.
_PRODUCTS: Final = ("kernel", "int8", "scales")
_STEMS: Final = {
    **dict.fromkeys(("W", *_PRODUCTS), 1),
    **dict.fromkeys(("R", "recurrent_kernel"), 2),
    **dict.fromkeys(("B", "bias"), 3),
}
# What stands between a rounded weight and the operator that computes with it in float32.
_BETWEEN: Final = ("Cast", "Mul", "DequantizeLinear", "Transpose", "Identity")


@dataclass(frozen=True, slots=True)
class _Use:
    """A node that reads a weight.

    Attributes:
        node: The node.
        position: Which of its inputs the weight is.
        inside: Whether it is in the body of a Scan.
    """

    node: Any
    position: int
    inside: bool


def part_of(name: str, wrong: Array, graph: Any, layer: Any) -> str:
    """The part and the gates in which a weight differs, in words; empty where that is not known.

    Args:
        name: The weight's name.
        wrong: Where it differs, of the weight's shape.
        graph: The file's graph.
        layer: The Keras layer that it belongs to; None where there is none of its name.
    """
    uses = list(_uses(graph, name))
    for use in uses:
        gates = _GATES.get(use.node.op_type)
        position = _ROUNDED.get(use.position, use.position)
        if gates is not None and position in _PARTS and wrong.ndim > 1:
            # DynamicQuantizeLSTM has [directions, ..., gates * units], others the gates second
            last = use.node.op_type == "DynamicQuantizeLSTM" and position != 3
            blocks = (*gates, *gates) if position == 3 else gates
            return _told(_PARTS[position], gates, blocks, wrong, -1 if last else 1)
    gates = _GATES.get(type(layer).__name__)
    stem = re.sub(r"(_int8|_scales|_zero)?(_\d+)?$", "", name.rpartition("/")[2])
    position = _STEMS.get(stem, 0)
    units = getattr(layer, "units", None)
    if gates is None or units is None or not position:
        return ""
    # a Scan's: [directions, gates * units, ...] as the operator has it, or Keras's [..., columns]
    axis = 1 if wrong.ndim > 2 else wrong.ndim - 1
    blocks = gates
    if stem in _PRODUCTS and uses and all(use.inside for use in uses):
        position = 2  # a product of the step alone
        if len(gates) == 3:  # a GRU's z and r, then h
            blocks = {2 * units: gates[:2], units: gates[2:]}.get(wrong.shape[axis], gates)
    elif position == 3 and wrong.shape[axis] == 2 * len(gates) * units:
        blocks = (*gates, *gates)
    if wrong.shape[axis] != len(blocks) * units:
        return _PARTS[position]
    return _told(_PARTS[position], gates, blocks, wrong, axis, directed=False)


def _told(
    part: str,
    gates: tuple[str, ...],
    blocks: tuple[str, ...],
    wrong: Array,
    axis: int,
    *,
    directed: bool = True,
) -> str:
    others = tuple(i for i in range(wrong.ndim) if i != axis % wrong.ndim)
    hit = {
        blocks[row * len(blocks) // wrong.shape[axis]]
        for row in np.flatnonzero(wrong.any(axis=others))
    }
    told = [gate for gate in gates if gate in hit]
    parts = [part]
    if len(gates) > 1:
        parts.append(f"gate{'s' if len(told) > 1 else ''} {', '.join(told)}")
    # both halves of a Bidirectional are one operator: [directions, ...]
    if directed and wrong.shape[0] > 1:
        halves = [h for h, half in zip(_HALVES, wrong, strict=True) if half.any()]
        parts.append(" and ".join(halves))
    return ", ".join(parts)


def _uses(graph: Any, name: str, *, inside: bool = False) -> Iterator[_Use]:
    """The nodes that read a value, through what only makes it float32 again."""
    for node in graph.node:
        if name in node.input:
            if node.op_type in _BETWEEN:
                yield from _uses(graph, node.output[0], inside=inside)
            else:
                yield _Use(node, list(node.input).index(name), inside)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                within = inside or node.op_type == "Scan"
                yield from _uses(attribute.g, name, inside=within)
