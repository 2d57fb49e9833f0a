"""Results as an Arrow table: a row each, its outputs as lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import InputError
from ._checks import row_shape
from ._pyarrow import pyarrow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..manifest import Dim, Manifest
    from ._scorer import Scores
    from ._settings import Settings

    Array = np.ndarray[Any, np.dtype[Any]]

ERROR: Final = "error"
STATE: Final = "state."


def column_shapes(manifest: Manifest, *, states: bool) -> dict[str, tuple[Dim, ...]]:
    """The shape of a row of each column of results, by its name."""
    shapes = {tensor.name: row_shape(tensor) for tensor in manifest.outputs}
    if states:
        shapes |= {STATE + item.name: item.row_shape for item in manifest.states}
    return shapes


def check_columns(manifest: Manifest, key: str, settings: Settings) -> None:
    """Raise InputError where two columns of results would have one name."""
    names = [key, *column_shapes(manifest, states=settings.states)]
    names += [ERROR] if settings.on_error == "skip" else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            "two columns of the results would have one name",
            received=", ".join(twice),
            remedy="call the column of the keys something else",
        )


def results_table(scores: Scores, manifest: Manifest, settings: Settings) -> Any:
    """The results as a `pyarrow.Table`, in the order of the rows.

    A list for each axis of an output but the batch, of fixed size where the model fixes it. A row
    with an error has null, and with `on_error="skip"` says so in the column `error`.

    Args:
        scores: The results.
        manifest: Of the model.
        settings: What is given.
    """
    pa = pyarrow()
    check_columns(manifest, scores.key, settings)
    columns = {scores.key: scores.keys}
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.outputs}
    dtypes |= {STATE + item.name: item.dtype for item in manifest.states}
    values: Mapping[str, Sequence[Array | None]] = {
        **scores.outputs,
        **{STATE + name: rows for name, rows in scores.states.items()},
    }
    for name, shape in column_shapes(manifest, states=settings.states).items():
        columns[name] = _column(pa, values[name], shape, np.dtype(dtypes[name]))
    if settings.on_error == "skip":
        columns[ERROR] = pa.array(scores.errors, pa.string())
    return pa.table(columns)


def _column(
    pa: Any, rows: Sequence[Array | None], shape: tuple[Dim, ...], dtype: np.dtype[Any]
) -> Any:
    """Rows of one rank as lists of lists of numbers.

    Axes go from the inside out: each is a list around what is there, of fixed size or with offsets.
    """
    absent = np.array([row is None for row in rows], dtype=bool)
    filler = np.zeros([dim if isinstance(dim, int) else 0 for dim in shape], dtype)
    filled = [filler if row is None else row for row in rows]
    flat = np.concatenate([row.ravel() for row in filled]) if filled else np.zeros(0, dtype)
    mask = pa.array(absent) if absent.any() else None
    if not shape:
        return pa.array(flat, mask=absent if absent.any() else None)
    column = pa.array(flat)
    sizes = np.array([row.shape for row in filled], dtype="int64").reshape(len(filled), len(shape))
    for axis in reversed(range(len(shape))):
        outermost = {"mask": mask} if axis == 0 and mask is not None else {}
        dim = shape[axis]
        if isinstance(dim, int):
            column = pa.FixedSizeListArray.from_arrays(column, dim, **outermost)
            continue
        # as many lists of this axis as the axes outside it have places, in each row
        counts = np.repeat(sizes[:, axis], sizes[:, :axis].prod(axis=1))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        if offsets[-1] >= 2**31:
            raise InputError(
                "the results of a part are more than a list of Arrow can hold",
                received=f"{offsets[-1]} elements",
                remedy="fewer rows: part_rows=, or --part-rows",
            )
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column, **outermost)
    return column
