"""State as a value: made, checked and replaced whole, never changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rnnonnx.errors import StateError

from ._map_states import map_values

if TYPE_CHECKING:
    from rnnonnx.manifest import StateTensor

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of a batch of streams between two calls.

    It belongs to no session: `Model.step` takes one and gives the next. Its arrays are
    read-only, so keeping an old `State` is a snapshot.

    Args:
        layout: What states there are, in Keras's order (`manifest.states`).
        values: One array a state, by name, each of the layout's dtype and of its shape with
            one batch size: `[batch, ...]` for a state `("batch", ...)`. Not copied.
        steps: See below.

    Attributes:
        layout: As given.
        values: Read-only arrays by state name, in the layout's order.
        steps: Time steps that led from the initial state to this one; calls, for a model
            whose inputs have no time axis.
        batch: Rows; None where no state has a batch axis.

    Raises:
        StateError: Names are missing or left over, or a dtype, shape or batch size is wrong.
    """

    layout: tuple[StateTensor, ...]
    values: Mapping[str, Array]
    steps: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        arrays, batch = check_values(self.layout, self.values, self.batch)
        object.__setattr__(self, "values", arrays)
        object.__setattr__(self, "batch", batch)

    @classmethod
    def initial(cls, layout: tuple[StateTensor, ...], batch: int | None) -> State:
        """The state before the first step, `batch` rows of each state's `init`.

        Raises:
            StateError: `batch` is no number of 1 or more, and a state needs it; or there is
                not memory enough.
        """
        batched = any(state.batch_axis is not None for state in layout)
        if batched and not (isinstance(batch, int | np.integer) and batch >= 1):
            raise StateError("the batch size is wrong", expected="1 or more", received=batch)
        rows = int(batch) if batched and batch is not None else 1
        try:
            values = {state.name: state.initial(rows) for state in layout}
        except (MemoryError, ValueError, OverflowError) as error:
            raise StateError(
                "the batch size is more than the memory can hold", received=rows
            ) from error
        return cls(layout, values)

    def renamed(self, names: Mapping[str, str | None], layout: tuple[StateTensor, ...]) -> State:
        """This state as one of another model: an encoder's as its decoder's.

        Args:
            names: The other model's names by this one's, or None for a state to drop. Nothing
                is guessed: each state of either model is named, also where the names agree.
            layout: The states of the other model.

        Returns:
            The same values and step count under the other names.

        Raises:
            StateError: `names` leaves out a state, names one that is not there, gives one
                twice, or joins two of other shapes or dtypes.
        """
        return State(layout, map_values(self.values, names, layout, self.layout), self.steps)

    def copies(self) -> dict[str, Array]:
        """Writable copies of the arrays by name, in the layout's order."""
        return {name: array.copy() for name, array in self.values.items()}

    def reset_rows(self, rows: Iterable[int]) -> State:
        """This state with the named rows of the batch at their initial values.

        Args:
            rows: Indices of rows, 0 to `batch - 1`, each once.

        Raises:
            StateError: An index is out of range, negative, named twice or no integer, or the
                model has a state that all rows share.
        """
        shared = [state.name for state in self.layout if state.batch_axis is None]
        if shared or self.batch is None:
            raise StateError(
                "rows cannot be reset: these states have no batch axis, all rows share them",
                received=shared,
                remedy="reset_states() resets the whole state",
            )
        index = _row_index(rows, self.batch)
        values = self.copies()
        for state in self.layout:
            if state.batch_axis is not None:
                # a view with the batch first: writing to it writes to the copy
                view = np.moveaxis(values[state.name], state.batch_axis, 0)
                fresh = np.moveaxis(state.initial(1), state.batch_axis, 0)
                view[index] = fresh
        return State(self.layout, values, self.steps)

    def take(self, rows: Iterable[int]) -> State:
        """A state whose rows are these rows of this one, in their order.

        One row may be taken several times (a beam search goes on from one in several ways) or
        not at all. States without a batch axis, which all rows share, stay as they are.

        Args:
            rows: Indices of rows, 0 to `batch - 1`; at least one.

        Raises:
            StateError: An index is out of range, negative or no integer, there is none, or no
                state has a batch axis.
        """
        if self.batch is None:
            raise StateError(
                "rows cannot be taken: no state has a batch axis, all rows share them",
                received=[state.name for state in self.layout],
            )
        index = _row_index(rows, self.batch, repeats=True)
        if not index.size:
            raise StateError("no rows are taken", expected="1 row or more", received="none")
        values = {
            state.name: self.values[state.name]
            if state.batch_axis is None
            else np.take(self.values[state.name], index, axis=state.batch_axis)
            for state in self.layout
        }
        return State(self.layout, values, self.steps)


def check_values(
    layout: tuple[StateTensor, ...],
    values: Mapping[str, Array],
    batch: int | None,
    *,
    fewest: int = 1,
) -> tuple[Mapping[str, Array], int | None]:
    """The values as read-only arrays in the layout's order, and their rows.

    Args:
        layout: What states there are.
        values: One array a state, by name.
        batch: Rows that they must have; None for any number.
        fewest: Rows that they must have at least.

    Returns:
        The arrays, not copied; and the rows, None where no state has a batch axis.

    Raises:
        StateError: Names are missing or left over, or a dtype, shape or batch size is wrong.
    """
    if not isinstance(values, Mapping):
        raise StateError("states are no mapping of names to arrays", received=type(values).__name__)
    names = [state.name for state in layout]
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if missing or unknown:
        raise StateError(
            "the states do not fit the model: "
            + ", ".join(
                f"{what} {which}"
                for what, which in (("missing", missing), ("unknown", unknown))
                if which
            ),
            expected=names,
            received=list(values),
        )
    arrays: dict[str, Array] = {}
    for state in layout:
        array, batch = _checked(state, values[state.name], batch, fewest)
        arrays[state.name] = array
    return MappingProxyType(arrays), batch


def _checked(
    state: StateTensor, value: Any, batch: int | None, fewest: int
) -> tuple[Array, int | None]:
    """The value as a read-only array, and the batch size once a state has fixed it."""
    if not hasattr(value, "__array__"):
        raise StateError(
            f"state {state.name!r} is no array",
            expected=f"an array of {state.dtype}",
            received=type(value).__name__,
        )
    array = np.asarray(value)
    if array.dtype != np.dtype(state.dtype):
        raise StateError(
            f"state {state.name!r} has the wrong dtype",
            expected=state.dtype,
            received=str(array.dtype),
            remedy=f"value.astype({state.dtype!r}): nothing is cast silently",
        )
    axis = state.batch_axis
    rows = array.shape[axis] if axis is not None and array.ndim > axis else None
    if array.shape != state.concrete_shape(fewest if rows is None else max(rows, fewest)):
        raise StateError(
            f"state {state.name!r} has the wrong shape",
            expected=f"[{', '.join(map(str, state.shape))}]"
            + (", with 1 row or more" if fewest else ""),
            received=list(array.shape),
        )
    if batch is not None and rows is not None and rows != batch:
        raise StateError(
            f"state {state.name!r} has another batch size than the others",
            expected=f"{batch} rows",
            received=f"{rows} rows",
        )
    view = array.view()
    view.flags.writeable = False
    return view, batch if rows is None else rows


def _row_index(rows: Iterable[int], batch: int, *, repeats: bool = False) -> Array:
    try:
        index = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
    except (TypeError, ValueError) as error:
        raise StateError("`rows` is no list of row indices", received=repr(rows)) from error
    if index.size == 0 and index.ndim == 1:
        return index.astype(np.intp)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise StateError(
            "`rows` is no list of row indices",
            received=repr(rows),
            remedy="np.flatnonzero(mask) gives the indices of a mask",
        )
    bad = [int(row) for row in index if not 0 <= row < batch]
    if bad or (not repeats and len(set(index.tolist())) != len(index)):
        raise StateError(
            "`rows` has indices " + ("out of range" if bad else "that repeat"),
            expected=f"each of 0 to {batch - 1}" + ("" if repeats else " at most once"),
            received=bad or index.tolist(),
        )
    return index
