"""Giving one model's states to another model: which is which, said name by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rnnonnx.errors import StateError

if TYPE_CHECKING:
    from rnnonnx.manifest import StateTensor

    from ._state import Array


def map_values(
    values: Mapping[str, Array],
    names: Mapping[str, str | None],
    layout: tuple[StateTensor, ...],
    source: tuple[StateTensor, ...] | None = None,
) -> dict[str, Array]:
    """The values under the names of `layout`, in its order. Not copied.

    Nothing is guessed: `names` says of every value which state it is, or None to drop it,
    also where both models use the same name.

    Args:
        values: One array a state of the source.
        names: The layout's names by the source's.
        layout: The states of the model that is to have the values.
        source: The states of the source, where they are known: then axes are compared, and
            not only sizes.

    Raises:
        StateError: `names` leaves out a value or a state, names one that is not there, gives
            a state twice, or joins states of two shapes or dtypes.
    """
    for what, mapping in (("states are", values), ("map_states is", names)):
        if not isinstance(mapping, Mapping):
            raise StateError(f"{what} no mapping by name", received=type(mapping).__name__)
    if not all(isinstance(name, str | None) for pair in names.items() for name in pair):
        raise StateError("map_states maps something else than names", received=repr(names))
    targets = [state.name for state in layout]
    given = Counter(target for target in names.values() if target is not None)
    problems = {
        "the source has no": [name for name in names if name not in values],
        "not said what becomes of": [name for name in values if name not in names],
        "the model has no": [name for name in given if name not in targets],
        "given more than once": [name for name, count in given.items() if count > 1],
        "nothing is given for": [name for name in targets if name not in given],
    }
    found = [f"{problem} {which}" for problem, which in problems.items() if which]
    if found:
        raise StateError(
            f"map_states does not fit: {', '.join(found)}",
            expected=f"each of {list(values)} mapped to one of {targets}, or to None to drop it",
            received=dict(names),
        )
    origin = {target: name for name, target in names.items() if target is not None}
    if source is not None:
        _compare({state.name: state for state in source}, layout, origin)
    return {target: values[origin[target]] for target in targets}


def _compare(
    source: Mapping[str, StateTensor], layout: tuple[StateTensor, ...], origin: Mapping[str, str]
) -> None:
    for state in layout:
        given = source[origin[state.name]]
        if (given.dtype, given.shape) != (state.dtype, state.shape):
            raise StateError(
                f"state {given.name!r} cannot become {state.name!r}: another dtype or shape",
                expected=f"{state.dtype} [{', '.join(map(str, state.shape))}]",
                received=f"{given.dtype} [{', '.join(map(str, given.shape))}]",
            )
