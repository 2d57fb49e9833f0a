"""Sequences as rows: a key, and an array for each input, out of a table or NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import InputError
from ._columns import Column, Problem
from ._layout import KEY
from ._pyarrow import pyarrow, reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._layout import Layout

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows that follow each other.

    Attributes:
        key: What the keys are called.
        keys: A `pyarrow.Array`, one each.
        inputs: The sequences by input name, one array each, or what is wrong with the row.
    """

    key: str
    keys: Any
    inputs: Mapping[str, Sequence[Array | Problem]]

    def __len__(self) -> int:
        return len(self.keys)


class Rows(Protocol):
    """Sequences that can be read from any place."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""

    def read(self, start: int, stop: int, layout: Layout) -> Chunk:
        """Rows `start` to `stop`, not included."""


def chunk_of(table: Any, layout: Layout, start: int = 0) -> Chunk:
    """The rows of a `pyarrow.Table`.

    Args:
        table: The rows.
        layout: Which column is what.
        start: The number of its first row, where rows have no key.

    Raises:
        InputError: A column holds no numbers.
    """
    with reading("a column of the rows"):
        # NOTE: Arrow believes what a file says of itself, and reads beyond its end if damaged.
        table.validate(full=True)
        inputs = {
            name: Column(column, table.column(column)) for name, column in layout.columns.items()
        }
        if layout.key is None:
            keys = pyarrow().array(np.arange(start, start + table.num_rows))
        else:
            keys = _whole(table.column(layout.key))
    return Chunk(layout.key or KEY, keys, inputs)


def _whole(column: Any) -> Any:
    """A column as one array, without a dictionary: a file of Arrow has one, and parts have many."""
    array = column.combine_chunks()
    if isinstance(array, pyarrow().ChunkedArray):
        array = pyarrow().concat_arrays(array.chunks)
    return array.dictionary_decode() if isinstance(array, pyarrow().DictionaryArray) else array


class TableRows:
    """The rows of a `pyarrow.Table` that is in memory, or mapped into it.

    Raises:
        InputError: Its columns have names that are no text, as in a damaged file.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self.count = int(table.num_rows)
        with reading("the names of the columns"):
            self.names = tuple(table.column_names)

    def read(self, start: int, stop: int, layout: Layout) -> Chunk:
        """Rows `start` to `stop`, not included."""
        table = self._table.select(layout.read)
        return chunk_of(table.slice(start, stop - start), layout, start)


class ArrayRows:
    """Rows of NumPy arrays by name.

    An array has a row for each sequence, `[rows, time, ...]`. Sequences of different lengths lie
    one after the other, `[steps of all, ...]`, beside `<name>.offsets`: integers `[rows + 1]`,
    where each begins.

    Args:
        arrays: By name.
        what: What they are, in messages.

    Raises:
        InputError: They have different numbers of rows, or offsets are none.
    """

    def __init__(self, arrays: Mapping[str, Array], what: str) -> None:
        self._arrays = {name: array for name, array in arrays.items() if not name.endswith(OFFSETS)}
        self._offsets = {
            name: _checked_offsets(name, arrays[name + OFFSETS], array)
            for name, array in self._arrays.items()
            if name + OFFSETS in arrays
        }
        alone = [n for n in arrays if n.endswith(OFFSETS) and n[: -len(OFFSETS)] not in arrays]
        if alone:
            raise InputError(f"{what} has offsets of arrays that are not there", received=alone)
        counts = {
            name: len(self._offsets[name]) - 1 if name in self._offsets else _length(name, array)
            for name, array in self._arrays.items()
        }
        if len(set(counts.values())) > 1:
            raise InputError(f"the arrays of {what} differ in rows", received=counts)
        self.count = next(iter(counts.values()), 0)
        self.names = tuple(self._arrays)

    def read(self, start: int, stop: int, layout: Layout) -> Chunk:
        """Rows `start` to `stop`, not included."""
        numbers: Any = np.arange(start, stop)
        if layout.key is not None:
            numbers = self._arrays[layout.key][start:stop]
            if numbers.ndim != 1 or layout.key in self._offsets:
                raise InputError(f"the keys {layout.key!r} are not one value a row")
        inputs = {
            name: [self._row(column, row) for row in range(start, stop)]
            for name, column in layout.columns.items()
        }
        return Chunk(layout.key or KEY, pyarrow().array(numbers.tolist()), inputs)

    def _row(self, name: str, row: int) -> Array:
        array = self._arrays[name]
        if name not in self._offsets:
            return np.asarray(array[row])
        begin, end = self._offsets[name][row : row + 2]
        return array[begin:end]


class NamedRows:
    """Sequences of one input that are an array each, called by their keys.

    Args:
        arrays: By key.
        column: What the sequences are called.
    """

    def __init__(self, arrays: Mapping[str, Array], column: str) -> None:
        self._arrays = list(arrays.values())
        self._keys = list(arrays)
        self.count = len(self._keys)
        self.names = (KEY, column)

    def read(self, start: int, stop: int, layout: Layout) -> Chunk:
        """Rows `start` to `stop`, not included."""
        inputs = dict.fromkeys(layout.columns, self._arrays[start:stop])
        keys = pyarrow().array(self._keys[start:stop], pyarrow().string())
        return Chunk(layout.key or KEY, keys, inputs)


OFFSETS = ".offsets"


def _length(name: str, array: Array) -> int:
    if array.ndim == 0:
        raise InputError(f"the array {name!r} has no rows", received="a single number")
    return len(array)


def _checked_offsets(name: str, offsets: Array, array: Array) -> Array:
    good = (
        offsets.ndim == 1
        and offsets.dtype.kind in "iu"
        and len(offsets) > 0
        and array.ndim > 0
        and offsets[0] == 0
        and offsets[-1] == len(array)
        and (np.diff(offsets.astype("int64")) >= 0).all()
    )
    if not good:
        raise InputError(
            f"{name + OFFSETS!r} does not say where the sequences of {name!r} begin",
            expected=f"integers that go up from 0 to {len(array) if array.ndim else 0}",
            received=f"{offsets.dtype} {list(offsets.shape)}",
        )
    return offsets.astype("int64")
