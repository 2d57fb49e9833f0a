"""Joining parts into one file: Parquet, Arrow or NumPy, a part at a time where it can."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from .._files import replace_file
from ..errors import InputError, RnnonnxError
from ._columns import Column
from ._open import ARROW, PARQUET
from ._pyarrow import pyarrow
from ._results import ERROR
from ._rows import OFFSETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..manifest import Dim

OUTPUTS: Final = (*PARQUET, *ARROW, ".npz")


def check_output(output: Path) -> None:
    """Raise InputError unless results can be written to a file of this name."""
    if output.suffix not in OUTPUTS:
        raise InputError(
            f"{str(output)!r} is no file that results can be written to",
            expected=", ".join(OUTPUTS),
            received=output.suffix or "no suffix",
        )
    if output.is_dir():
        raise InputError(f"{str(output)!r} is a folder", expected="the name of a file")
    if not output.parent.is_dir():
        raise InputError(
            f"the folder of {output} does not exist", remedy=f"mkdir -p {output.parent}"
        )


def write_output(
    output: Path, tables: Iterator[Any], shapes: Mapping[str, tuple[Dim, ...]]
) -> None:
    """Write tables, whose rows follow each other, as one file, whole or not at all.

    Args:
        output: The file; its suffix says what it becomes.
        tables: One or more, with the same columns.
        shapes: The shape of a row of each column that is an array.

    Raises:
        RnnonnxError: It cannot be written.
    """
    if output.suffix == ".npz":
        arrays = _arrays(list(tables), shapes)

        def write(file: IO[bytes]) -> None:
            np.savez(file, allow_pickle=False, **arrays)
    else:
        parquet = output.suffix in PARQUET

        def write(file: IO[bytes]) -> None:
            first = next(tables)
            with _writer(file, first.schema, parquet=parquet) as writer:
                writer.write_table(first)
                for table in tables:
                    writer.write_table(table)

    replace_file(output, write, what="the results", error=RnnonnxError)


def _writer(file: IO[bytes], schema: Any, *, parquet: bool) -> Any:
    if parquet:
        return pyarrow("pyarrow.parquet").ParquetWriter(file, schema)
    return pyarrow("pyarrow.ipc").new_file(pyarrow().PythonFile(file), schema)


def _arrays(
    tables: Sequence[Any], shapes: Mapping[str, tuple[Dim, ...]]
) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """The columns as arrays; ragged ones one after the other, with their offsets."""
    table = pyarrow().concat_tables(tables)
    arrays: dict[str, Any] = {}
    for name in table.column_names:
        if name in shapes:
            arrays |= _array(name, table.column(name), shapes[name])
        elif name == ERROR:
            arrays[name] = np.array([text or "" for text in table.column(name).to_pylist()])
        else:
            arrays[name] = np.array(table.column(name).to_pylist())
            if arrays[name].dtype == object:
                raise InputError(
                    f"a .npz file cannot hold the keys {name!r}",
                    received=str(table.schema.field(name).type),
                    remedy="write to a .parquet or .arrow file",
                )
    return arrays


def _array(name: str, column: Any, shape: tuple[Dim, ...]) -> dict[str, Any]:
    """A column of arrays. A row with an error is one of zeros, or of no steps."""
    rows = Column(name, column)
    filler = np.zeros([dim if isinstance(dim, int) else 0 for dim in shape], rows.dtype)
    values = [row if isinstance(row, np.ndarray) else filler for row in rows]
    if all(isinstance(dim, int) for dim in shape):
        return {name: np.stack(values)}
    if isinstance(shape[0], int) or not all(isinstance(dim, int) for dim in shape[1:]):
        raise InputError(
            f"a .npz file cannot hold the output {name!r}: its rows differ in more than length",
            received=str(list(shape)),
            remedy="write to a .parquet or .arrow file",
        )
    offsets = np.cumsum([0, *(len(value) for value in values)])
    return {name: np.concatenate(values), name + OFFSETS: offsets}
