"""Which rows are run together: those of one length, or nearly so where there is a mask."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PADDING: Final = 8
"""A padded batch holds lengths from the shortest to an eighth more."""

VALUES: Final = 2**24
"""Most values that a batch's inputs hold: long sequences come in smaller batches."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be run.

    Attributes:
        number: Which one it is.
        length: Its time steps; 0 where no input has a time axis.
        shape: The shapes of all its inputs; the time axes as 0 where they may be padded.
        size: How many values its inputs hold.
    """

    number: int
    length: int
    shape: tuple[tuple[int, ...], ...]
    size: int


def batches(rows: Sequence[Row], *, most: int, padded: bool) -> Iterator[list[Row]]:
    """The rows in batches, shortest sequences first.

    It depends on the rows and these arguments alone, so that every engine runs the same batches.

    Args:
        rows: In any order.
        most: Most rows of a batch.
        padded: Whether lengths may differ within a batch.
    """
    for group in _groups(rows, padded=padded).values():
        ordered = sorted(group, key=lambda row: (row.length, row.number))
        batch: list[Row] = []
        for row in ordered:
            limit = batch[0].length + batch[0].length // PADDING if batch else 0
            full = len(batch) >= most or (len(batch) + 1) * row.size > VALUES
            if batch and (full or row.length > limit):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def _groups(rows: Sequence[Row], *, padded: bool) -> Mapping[object, list[Row]]:
    """Rows that may share a batch; groups in the order of their shapes."""
    groups: dict[tuple[tuple[tuple[int, ...], ...], int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.shape, 0 if padded else row.length].append(row)
    return dict(sorted(groups.items()))
