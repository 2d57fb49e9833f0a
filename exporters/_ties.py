"""Which lengths of a model must agree, found by growing some and seeing what fails.

A length that grows alone is one of its own. Where it does not, an operation of the trace
fails: it has met another length, of an input that it depends on as well. The two are joined
and grow together; so each failure joins two groups or settles one, and the number of runs
grows with the number of lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._prober import Prober, Size, Sizes

_UNKNOWN = 1 << 30  # behind all operations: where a failure names none of them


@dataclass(frozen=True, slots=True)
class Ties:
    """The open dimensions of a model, by what they depend on.

    Attributes:
        groups: Those that vary together, sorted.
        stuck: Those that Keras cannot compute at another size, alone or with others.
    """

    groups: list[list[Size]]
    stuck: list[Size]


@dataclass(slots=True)
class _Group:
    """Dimensions that are known to vary together, and the operation that still fails."""

    dims: list[Size]
    fails_at: int | None


def find_ties(prober: Prober, base: Sizes) -> Ties:
    """Partition the open dimensions.

    Args:
        prober: Runs Keras.
        base: Sizes that the model takes.
    """
    graph = _Graph(prober.reference.trace.function.graph)

    def probe(dims: Sequence[Size]) -> _Group:
        return _Group(list(dims), _fails_at(prober, base, graph, dims))

    waiting: list[_Group] = []
    done: list[_Group] = []
    stuck: list[Size] = []
    for dim in prober.open:
        group = probe([dim])
        (done if group.fails_at is None else waiting).append(group)
    while waiting:
        # from the inputs on: what meets here has met nothing else before
        first = min(waiting, key=lambda group: group.fails_at or 0)
        waiting.remove(first)
        merged = _join(first, waiting, graph, probe)
        if merged is None:
            stuck += first.dims
            continue
        waiting = [group for group in waiting if group.dims[0] not in merged.dims]
        (done if merged.fails_at is None else waiting).append(merged)
    return Ties(sorted(sorted(group.dims) for group in done), sorted(stuck))


def _join(first: _Group, waiting: list[_Group], graph: _Graph, probe: Any) -> _Group | None:
    """The group with those that it must agree with where it fails; None if none is found."""
    at = first.fails_at
    same = [group for group in waiting if group.fails_at == at]
    # of several operations that fail at once TensorFlow tells one: the other group's may be later
    inputs = graph.inputs_before(at)
    later = [
        group
        for group in waiting
        if group.fails_at != at and any(index in inputs for index, _ in group.dims)
    ]
    attempts = [[group] for group in (*same, *later)]
    if len(same) > 1:
        attempts.append(same)  # three inputs of one operation
    for others in attempts:
        found: _Group = probe([*first.dims, *(dim for group in others for dim in group.dims)])
        if found.fails_at is None or found.fails_at > (at or 0):
            return found
    return None


def _fails_at(prober: Prober, base: Sizes, graph: _Graph, dims: Sequence[Size]) -> int | None:
    """The first operation that cannot have these dimensions at another size; None if all can.

    Both ways: a mask, say, may be longer than the sequence, and not shorter.
    """
    others = [dim for dim in base if dim not in dims]
    run = prober.run({**base, **{dim: base[dim] + 1 for dim in dims}}, prober.batch)
    if run.outputs is None:
        return graph.position(run.node)
    while others:
        run = prober.run({**base, **{dim: base[dim] + 1 for dim in others}}, prober.batch)
        if run.outputs is not None:
            return None
        position = graph.position(run.node)
        inputs = graph.inputs_before(position)
        unrelated = [dim for dim in others if dim[0] in inputs]
        if not unrelated or any(index in inputs for index, _ in dims):
            return position
        # what the others do to each other is not told of these
        others = [dim for dim in others if dim not in unrelated]
    return None


class _Graph:
    """The operations of a trace in their order, and the inputs that each depends on."""

    def __init__(self, graph: Any) -> None:
        self._operations = graph.get_operations()
        self._positions = {op.name: index for index, op in enumerate(self._operations)}

    def position(self, node: str) -> int:
        """Where a node that failed stands; one of a loop's body, where the loop does."""
        name = node
        while name:
            if name in self._positions:
                return self._positions[name]
            name = name.rpartition("/")[0]
        return _UNKNOWN

    def inputs_before(self, position: int | None) -> set[int]:
        """Positions of the model's inputs that an operation depends on; all if it is unknown."""
        if position is None or position == _UNKNOWN:
            waiting = list(self._operations)
        else:
            waiting = [self._operations[position]]
        seen, found = set(), set()
        while waiting:
            operation = waiting.pop()
            if operation.name in seen:
                continue
            seen.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
            number = operation.name.removeprefix("input_")
            if operation.type == "Placeholder" and number.isdigit():
                found.add(int(number))
        return found
