"""The states of all streams: one array a state, a row for each stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rnnonnx.errors import PoolError, RunError

from .._state import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.manifest import StateTensor

    from .._state import Array

Slots: TypeAlias = "Array | slice"
"""Rows of the slab: an index array, or the slice that means the same."""


class Slab:
    """Rows of state.

    Who calls sees to it that no row is written by two at once, or while a batch reads it.

    Args:
        layout: The states, each with a batch axis.
        capacity: How many rows there are.

    Attributes:
        layout: As given.
        steps: Time steps that each row has carried; int64 `[capacity]`.

    Raises:
        PoolError: There is not memory enough.
    """

    def __init__(self, layout: tuple[StateTensor, ...], capacity: int) -> None:
        self.layout = layout
        try:
            # NOTE: zeros are not touched before a stream takes the row, and cost no memory
            self._arrays = [np.zeros(item.concrete_shape(capacity), item.dtype) for item in layout]
            self.steps = np.zeros(capacity, np.int64)
        except (MemoryError, ValueError, OverflowError) as error:
            raise PoolError(
                "the capacity is more than the memory can hold", received=capacity
            ) from error
        self._first = [item.initial(1) for item in layout]
        # what stands before the row in an index
        self._before: list[tuple[Any, ...]] = [
            (slice(None),) * (item.batch_axis or 0) for item in layout
        ]
        # name, dtype, and the sizes before and behind the rows
        self._fits = tuple(
            (
                item.name,
                np.dtype(item.dtype),
                item.row_shape[: item.batch_axis],
                item.row_shape[item.batch_axis or 0 :],
            )
            for item in layout
        )

    def gather(self, slots: Slots, into: Sequence[Array] | None = None) -> list[Array]:
        """The states of these rows, one array a state, each `[rows, ...]` as the manifest has it.

        Args:
            slots: The rows.
            into: Where to write them; None is memory of their own.
        """
        if into is None:
            return [
                np.ascontiguousarray(array[(*before, slots)])
                for array, before in zip(self._arrays, self._before, strict=True)
            ]
        for array, before, buffer in zip(self._arrays, self._before, into, strict=True):
            if isinstance(slots, slice):
                buffer[...] = array[(*before, slots)] if before else array[slots]
            else:
                # NOTE: with the mode `raise`, the default, numpy would copy twice
                np.take(array, slots, len(before), out=buffer, mode="clip")
        return list(into)

    def check(self, values: Sequence[Array], rows: int) -> None:
        """Check states that the model gave.

        Args:
            values: One array a state, in the order of the layout.
            rows: How many rows they should have.

        Raises:
            RunError: One does not fit the manifest.
        """
        for (name, dtype, head, tail), value in zip(self._fits, values, strict=True):
            if value.shape != (*head, rows, *tail) or value.dtype != dtype:
                raise RunError(
                    f"the model gave a state that does not fit its manifest: {name!r}",
                    expected=f"{dtype} {[*head, rows, *tail]}",
                    received=f"{value.dtype} {list(value.shape)}",
                    remedy="the state is as it was before the call",
                )

    def row(self, values: Sequence[Array], row: int) -> list[Array]:
        """One row of such states, as views of one row each."""
        return [
            value[(*before, slice(row, row + 1))]
            for value, before in zip(values, self._before, strict=True)
        ]

    def commit(self, slots: Slots, rows: int, values: Sequence[Array], steps: Any) -> None:
        """Replace the states of these rows, and count their steps.

        Args:
            slots: The rows.
            rows: How many they are. What the values have beyond is padding.
            values: New states that fit, in the order of the layout.
            steps: What is added to the step counts, one number or one for each row.
        """
        for array, before, value in zip(self._arrays, self._before, values, strict=True):
            if before:
                array[(*before, slots)] = value[(*before, slice(rows))]
            else:
                array[slots] = value[:rows]
        if rows == 1 and isinstance(slots, slice):  # three times as fast by a number
            self.steps[slots.start] += steps
        else:
            self.steps[slots] += steps

    def reset(self, slot: int) -> None:
        """Put a row to the states' initial values, and its count to 0."""
        for array, before, first in zip(self._arrays, self._before, self._first, strict=True):
            array[(*before, slice(slot, slot + 1))] = first
        self.steps[slot] = 0

    def read(self, slots: Sequence[int]) -> dict[str, Array]:
        """Copies of the states of these rows, by name."""
        index = np.asarray(slots, np.intp)
        return {
            item.name: array[(*before, index)]
            for item, array, before in zip(self.layout, self._arrays, self._before, strict=True)
        }

    def write(self, slots: Sequence[int], values: Mapping[str, Array], steps: Any) -> None:
        """Set the states of these rows, which have been checked, and their step counts."""
        index = np.asarray(slots, np.intp)
        for item, array, before in zip(self.layout, self._arrays, self._before, strict=True):
            array[(*before, index)] = values[item.name]
        self.steps[index] = steps

    def state(self, slot: int) -> State:
        """A copy of one row, as a state of batch 1."""
        return State(self.layout, self.read([slot]), int(self.steps[slot]))


def as_slots(slots: Sequence[int]) -> Slots:
    """Rows as an index, or as a slice where they lie side by side in order."""
    first, last = slots[0], slots[-1]
    if last - first == len(slots) - 1 and list(slots) == list(range(first, last + 1)):
        return slice(first, last + 1)
    return np.array(slots, np.intp)
