"""A pass of the finish stage: the two halves of a Bidirectional as one operator.

Keras runs a layer forwards and one backwards, and turns the outputs of the second around
again. What is turned twice is left alone, and two recurrent operators that read the same
sequence in the two directions become one with `direction="bidirectional"`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ._constants import constant
from ._unique import UniqueNames

_RECURRENT = ("LSTM", "GRU", "RNN")
# Inputs of the recurrent operators by position (ONNX RNN, GRU and LSTM, version 14).
_X, _W, _R, _B, _LENGTHS, _STATES = 0, 1, 2, 3, 4, (5, 6)
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


class MergeDirectionsPass(ir.passes.InPlacePass):
    """Cancels double reversals, then merges forward and reverse operators on one sequence."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        changed = _cancel_reversals(model.graph)
        forward: dict[tuple[Any, ...], list[ir.Node]] = {}
        nodes = [node for node in model.graph if node.op_type in _RECURRENT]
        for node in nodes:
            if _direction(node) == "forward":
                forward.setdefault(_key(node), []).append(node)
        for node in nodes:
            if _direction(node) == "reverse":
                waiting = forward.get(_key(node), [])
                other = next((first for first in waiting if _mergeable(first, node)), None)
                if other is not None:
                    waiting.remove(other)
                    _merge(model.graph, other, node)
                    changed = True
        return ir.passes.PassResult(model, modified=changed)


def _cancel_reversals(graph: ir.Graph) -> bool:
    changed = False
    for node in list(graph):
        axis, turned = _reversed_axis(node), node.inputs[0] if node.inputs else None
        before = turned.producer() if axis is not None and turned is not None else None
        source = before.inputs[0] if before is not None else None
        if before is not None and source is not None and _reversed_axis(before) == axis:
            ir.convenience.replace_all_uses_with(
                node.outputs[0], source, replace_graph_outputs=True
            )
            changed = True
    return changed


def _reversed_axis(node: ir.Node) -> int | None:
    """The axis that a Slice turns around; None if it does something else."""
    if node.op_type != "Slice" or len(node.inputs) != 5:
        return None
    start, end, axes, step = (constant(value) for value in node.inputs[1:])
    if start is None or end is None or axes is None or step is None or axes.size != 1:
        return None
    whole = start[0] == -1 and step[0] == -1 and end[0] == np.iinfo(np.int64).min
    return int(axes[0]) if whole else None


def _direction(node: ir.Node) -> str:
    attribute = node.attributes.get("direction")
    return "forward" if attribute is None else str(attribute.as_string())


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _key(node: ir.Node) -> tuple[Any, ...]:
    """What two operators must share: sequence, lengths, sizes, which inputs they have."""
    reset = node.attributes.get("linear_before_reset")
    return (
        node.op_type,
        node.inputs[_X],
        _input(node, _LENGTHS),
        node.attributes["hidden_size"].as_int(),
        None if reset is None else reset.as_int(),
        _input(node, _B) is not None,
        tuple(_input(node, position) is not None for position in _STATES),
        "activation_alpha" in node.attributes,
        "activation_beta" in node.attributes,
    )


def _mergeable(forward: ir.Node, reverse: ir.Node) -> bool:
    weights = [_input(n, position) for n in (forward, reverse) for position in (_W, _R, _B)]
    known = all(value is None or value.const_value is not None for value in weights)
    # One may begin from what the other ends with.
    return known and not _reaches(forward, reverse) and not _reaches(reverse, forward)


def _reaches(source: ir.Node, sink: ir.Node) -> bool:
    """Whether an input of `sink` depends on `source`."""
    seen: set[ir.Node] = set()
    left = [value.producer() for value in sink.inputs if value is not None]
    while left:
        node = left.pop()
        if node is source:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            left += [value.producer() for value in node.inputs if value is not None]
    return False


def _merge(graph: ir.Graph, forward: ir.Node, reverse: ir.Node) -> None:
    """Replace two operators by one, and take its outputs apart again.

    The states of either may depend on what the other's inputs need, so the nodes are sorted
    again afterwards.
    """
    inputs: list[ir.Value | None] = [forward.inputs[_X]]
    for position in (_W, _R, _B):
        pair = [constant(_input(node, position)) for node in (forward, reverse)]
        inputs.append(_both(graph, forward, position, pair))
    inputs.append(_input(forward, _LENGTHS))
    for position in _STATES:
        states = [_input(node, position) for node in (forward, reverse)]
        inputs.append(
            None if states[0] is None else _node(graph, forward, "Concat", states, 1, axis=0)[0]
        )
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {
        name: attribute.value
        for name, attribute in forward.attributes.items()
        if name in ("hidden_size", "linear_before_reset")
    }
    attributes["direction"] = "bidirectional"
    for name in ("activations", "activation_alpha", "activation_beta"):
        values = [_list(node, name) for node in (forward, reverse)]
        if any(values):
            attributes[name] = [*values[0], *values[1]]
    outputs = _node(graph, forward, forward.op_type, inputs, len(forward.outputs), **attributes)
    for index, value in enumerate(outputs):
        used = [node.outputs[index] for node in (forward, reverse)]
        if not any(old.uses() or old.is_graph_output() for old in used):
            continue
        # the direction is axis 1 of Y [time, 2, batch, units], axis 0 of the final states
        halves = _node(
            graph, forward, "Split", [value, _sizes(graph, forward)], 2, axis=int(index == 0)
        )
        for old, new in zip(used, halves, strict=True):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove([forward, reverse], safe=True)


def _list(node: ir.Node, name: str) -> list[Any]:
    attribute = node.attributes.get(name)
    if attribute is not None:
        return list(attribute.value)
    return list(_DEFAULTS[node.op_type]) if name == "activations" else []


def _both(
    graph: ir.Graph, near: ir.Node, position: int, pair: list[np.ndarray[Any, Any] | None]
) -> ir.Value | None:
    if pair[0] is None or pair[1] is None:
        return None
    return _weight(graph, near, "WRB"[position - 1], np.concatenate([pair[0], pair[1]], axis=0))


def _sizes(graph: ir.Graph, near: ir.Node) -> ir.Value:
    return _weight(graph, near, "split", np.array([1, 1], np.int64))


def _weight(graph: ir.Graph, near: ir.Node, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    base = f"{str(near.name).rsplit('/', 1)[0]}/{name}"
    unique = UniqueNames(graph.initializers).take(base)
    value = ir.Value(name=unique, const_value=ir.tensor(array))
    graph.register_initializer(value)
    return value


def _node(
    graph: ir.Graph,
    near: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    count: int,
    **attributes: Any,
) -> list[ir.Value]:
    """A node of the layer that `near` belongs to; returns its outputs."""
    node = ir.node(op_type, inputs, attributes, num_outputs=count)
    node.name = f"{str(near.name).rsplit('/', 1)[0]}/{op_type}"
    graph.append(node)
    return list(node.outputs)
