"""Columns of Arrow as one array a row: lists of any depth, of fixed or ragged size, and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..errors import InputError
from ._pyarrow import pyarrow, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row.

    Attributes:
        message: What it is.
        expected: What would have been right.
        received: What is there.
    """

    message: str
    expected: str | None = None
    received: str | None = None

    def __str__(self) -> str:
        text = self.message
        text += f"; expected {self.expected}" if self.expected else ""
        return text + (f"; received {self.received}" if self.received else "")


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of lists: where each begins in the level below.

    Attributes:
        offsets: `[lists + 1]`.
        valid: `[lists]`; None where all are.
    """

    offsets: Array
    valid: Array | None


class Column(Sequence["Array | Problem"]):
    """A column whose rows are arrays, read without a Python object for each number.

    Args:
        name: What it is called, in messages.
        column: A `pyarrow.Array` or `ChunkedArray` of numbers, of lists (also of fixed size) of
            them, of lists of lists, and so on, or of tensors.

    Raises:
        InputError: Its values are no numbers.
    """

    def __init__(self, name: str, column: Any) -> None:
        pa = pyarrow()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunk, or of more than one holds
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0)
        self._count = len(column)
        self._shape: tuple[int, ...] | None = None
        self._shapes: Column | None = None
        column = self._storage(pa, name, column)
        self._levels: list[_Level] = []
        while True:
            kind = column.type
            if pa.types.is_list(kind) or pa.types.is_large_list(kind):
                offsets = column.offsets.to_numpy()
            elif pa.types.is_fixed_size_list(kind):
                # `values` knows nothing of a slice of the lists above it
                offsets = (column.offset + np.arange(len(column) + 1)) * kind.list_size
            else:
                break
            self._levels.append(_Level(offsets, _valid(column)))
            column = column.values
        if pa.types.is_null(column.type):
            column = column.cast(pa.float32())
        if not _is_number(pa, column.type):
            raise InputError(
                f"the column {name!r} holds no numbers",
                expected="numbers, lists of numbers, lists of lists, or tensors",
                received=str(column.type),
            )
        self._all_valid = _valid(column)
        if self._all_valid is not None:
            column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
        self._values = column.to_numpy(zero_copy_only=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every row."""
        dtype: np.dtype[Any] = self._values.dtype
        return dtype

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> Array | Problem: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Array | Problem]: ...
    def __getitem__(self, row: int | slice) -> Any:
        """The row as an array, or what is wrong with it."""
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        if not 0 <= row < self._count:
            raise IndexError(row)
        begin, end = row, row + 1
        shape: list[int] = []
        for level in self._levels:
            if level.valid is not None and not level.valid[begin:end].all():
                return Problem("a value is null")
            offsets = level.offsets[begin : end + 1]
            widths = np.diff(offsets)
            if widths.size and (widths != widths[0]).any():
                return Problem(
                    "its steps differ in width",
                    expected=f"{widths[0]} as in the first",
                    received=f"{widths[widths != widths[0]][0]}",
                )
            shape.append(int(widths[0]) if widths.size else 0)
            begin, end = int(offsets[0]), int(offsets[-1])
        if self._all_valid is not None and not self._all_valid[begin:end].all():
            return Problem("a value is null")
        return self._shaped(row, self._values[begin:end], shape)

    def __iter__(self) -> Iterator[Array | Problem]:
        return (self[row] for row in range(len(self)))

    def _storage(self, pa: Any, name: str, column: Any) -> Any:
        """The lists beneath a column of tensors, whose shapes are kept."""
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            shape = getattr(kind, "shape", None)
            column = column.storage
            if shape is not None and not pa.types.is_struct(column.type):
                permutation = getattr(kind, "permutation", None)
                if permutation is not None and list(permutation) != sorted(permutation):
                    raise InputError(
                        f"the column {name!r} holds tensors whose axes are permuted",
                        remedy="store them in C order",
                    )
                self._shape = tuple(shape)
        if pa.types.is_struct(column.type):
            with reading(f"the column {name!r}"):
                fields = [field.name for field in column.type]
            if sorted(fields) != ["data", "shape"]:
                raise InputError(
                    f"the column {name!r} holds no numbers",
                    expected="lists, or tensors with `data` and `shape`",
                    received=str(column.type),
                )
            valid = _valid(column)
            data, shapes = column.field("data"), column.field("shape")
            if valid is not None:
                absent = pa.scalar(None, data.type)
                data = pyarrow("pyarrow.compute").if_else(column.is_valid(), data, absent)
            self._shapes = Column(f"{name}.shape", shapes)
            return data
        return column

    def _shaped(self, row: int, values: Array, shape: list[int]) -> Array | Problem:
        if self._shape is not None:
            return values.reshape(self._shape)
        if self._shapes is not None:
            wanted = self._shapes[row]
            if isinstance(wanted, Problem):
                return wanted
            shape = [int(size) for size in wanted]
        if int(np.prod(shape)) != values.size:
            return Problem(f"its shape {shape} does not fit its {values.size} values")
        return values.reshape(shape)


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _valid(array: Any) -> Array | None:
    """Which elements are not null; None where all are."""
    if not array.null_count:
        return None
    valid: Array = array.is_valid().to_numpy(zero_copy_only=False)
    return valid
