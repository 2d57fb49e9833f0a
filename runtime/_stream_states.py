"""The states of many streams as one value: what a pool saves and restores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import StateError

from ._state import check_values

if TYPE_CHECKING:
    from rnnonnx.manifest import StateTensor

    from ._state import Array


@dataclass(frozen=True, slots=True, eq=False)
class StreamStates:
    """The states of many streams between two calls, each stream a row.

    Args:
        layout: What states there are, in Keras's order (`manifest.states`). Each has a batch
            axis: a state that all rows share belongs to no stream.
        values: One array a state, by name, with as many rows along the state's batch axis as
            there are streams; there may be none. Not copied.
        ids: What the streams are called, the one of row 0 first. Any text, the empty one too,
            each once; but no half of a surrogate pair, which no UTF-8 can hold.
        steps: Time steps (or calls) that each has carried.

    Attributes:
        layout: As given.
        values: Read-only arrays by state name, in the layout's order.
        ids: A tuple.
        steps: A tuple of ints.

    Raises:
        StateError: An argument is not as said above.
    """

    layout: tuple[StateTensor, ...]
    values: Mapping[str, Array]
    ids: Sequence[str]
    steps: Sequence[int]

    def __post_init__(self) -> None:
        ids, steps = _ids(self.ids), _steps(self.steps)
        if len(ids) != len(steps):
            raise StateError(
                "there is not one step count for each stream",
                expected=f"{len(ids)}",
                received=f"{len(steps)}",
            )
        shared = [state.name for state in self.layout if state.batch_axis is None]
        if shared:
            raise StateError(
                "these states have no batch axis: all streams would share them", received=shared
            )
        values, _ = check_values(self.layout, self.values, len(ids), fewest=0)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "steps", steps)


def is_step_count(value: object) -> bool:
    """Whether a value can be a step count: a whole number that 63 bits hold."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return 0 <= int(value) < 2**63


def _ids(ids: object) -> tuple[str, ...]:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise StateError("the streams' ids are no list", received=type(ids).__name__)
    for item in ids:
        if not isinstance(item, str):
            raise StateError("a stream's id is no text", received=repr(item))
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise StateError(
                "a stream's id holds half of a surrogate pair", received=repr(item)
            ) from error
    repeated = [item for item, count in Counter(ids).items() if count > 1]
    if repeated:
        raise StateError("streams' ids repeat", received=repeated[:5])
    return tuple(ids)


def _steps(steps: object) -> tuple[int, ...]:
    if isinstance(steps, str) or not isinstance(steps, Sequence | np.ndarray):
        raise StateError("the streams' step counts are no list", received=type(steps).__name__)
    bad = [item for item in steps if not is_step_count(item)]
    if bad:
        raise StateError(
            "the streams' step counts are no counts", expected="0 or more", received=bad[:5]
        )
    return tuple(map(int, steps))
