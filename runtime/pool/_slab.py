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
    from ._arguments import Limits

Slots: TypeAlias = "Array | slice"
"""Rows of the slab: an index array, or the slice that means the same."""


class Slab:
    """Rows of state.

    Rows that lie side by side are read where they lie. Who calls sees to it that no row is
    written by two at once, or while a batch reads it.

    Args:
        layout: The states, each with a batch axis.
        limits: How many rows there are, and how many are gathered at once.

    Attributes:
        layout: As given.
        steps: Time steps that each row has carried; int64 `[capacity]`.

    Raises:
        PoolError: There is not memory enough.
    """

    def __init__(self, layout: tuple[StateTensor, ...], limits: Limits) -> None:
        self.layout = layout
        capacity = limits.capacity
        most = max(limits.max_batch, limits.min_batch)
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
        self._gathered = [
            np.empty(item.concrete_shape(most), item.dtype) if item.batch_axis == 0 else None
            for item in layout
        ]

    def gather(self, slots: Slots, rows: int) -> dict[str, Array]:
        """The states of these rows, by name, each `[rows, ...]` as the manifest has it.

        They are valid until the next call, and to be read only.
        """
        values: dict[str, Array] = {}
        for fit, array, buffer, before in zip(
            self._fits, self._arrays, self._gathered, self._before, strict=True
        ):
            if buffer is None:
                values[fit[0]] = np.ascontiguousarray(array[(*before, slots)])
            elif isinstance(slots, slice):
                values[fit[0]] = array[slots]
            else:
                # NOTE: with the mode `raise`, the default, numpy would copy twice
                values[fit[0]] = np.take(array, slots, 0, out=buffer[:rows], mode="clip")
        return values

    def commit(
        self,
        slots: Slots,
        rows: int,
        ran: int,
        values: Mapping[str, Array],
        steps: Any,
    ) -> None:
        """Replace the states of these rows, all or none, and count their steps.

        Args:
            slots: The rows.
            rows: How many they are.
            ran: How many the model was run with; those beyond `rows` are padding.
            values: New states by name.
            steps: What is added to the step counts, one number or one for each row.

        Raises:
            RunError: A state does not fit the manifest. Nothing has changed.
        """
        new: list[Any] = []
        for name, dtype, head, tail in self._fits:
            value = values[name]
            if value.shape != (*head, ran, *tail) or value.dtype != dtype:
                raise RunError(
                    f"the model gave a state that does not fit its manifest: {name!r}",
                    expected=f"{dtype} {[*head, ran, *tail]}",
                    received=f"{value.dtype} {list(value.shape)}",
                    remedy="the state is as it was before the call",
                )
            new.append(value if ran == rows else value[(*(slice(None),) * len(head), slice(rows))])
        for array, before, value in zip(self._arrays, self._before, new, strict=True):
            array[(*before, slots) if before else slots] = value
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
    count = len(slots)
    if count == 1:
        return slice(first, first + 1)
    index = np.array(slots, np.intp)
    if last - first == count - 1 and bool((index[1:] - index[:-1] == 1).all()):
        return slice(first, last + 1)
    return index
