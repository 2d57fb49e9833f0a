"""Whether a row can be run, and whether a model's rows are sequences of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, PoolError
from ._columns import Problem

if TYPE_CHECKING:
    from rnnonnx.runtime import Model

    from ..manifest import Dim, Manifest, Tensor
    from ._settings import Settings

    Array = np.ndarray[Any, np.dtype[Any]]


def row_shape(tensor: Tensor) -> tuple[Dim, ...]:
    """The shape of one row: without the batch axis."""
    return tuple(dim for axis, dim in enumerate(tensor.shape) if axis != tensor.batch_axis)


def row_time_axis(tensor: Tensor) -> int | None:
    """Which axis of a row is time."""
    if tensor.time_axis is None or tensor.batch_axis is None:
        return tensor.time_axis
    return tensor.time_axis - (tensor.batch_axis < tensor.time_axis)


def check_model(manifest: Manifest) -> None:
    """Check that each row of a batch is a sequence of its own.

    Raises:
        InputError: A state or output has no batch axis.
    """
    shared = [state.name for state in manifest.states if state.batch_axis is None]
    shared += [tensor.name for tensor in manifest.outputs if tensor.batch_axis is None]
    if shared:
        raise InputError(
            "sequences cannot be scored with this model: these states and outputs have no batch "
            "axis, all rows share them",
            received=shared,
            remedy="a StatefulSession for each sequence",
        )


def check_mask(model: Model, name: str) -> None:
    """Check that padding with this mask changes no result.

    Raises:
        InputError: The input is no mask, or padding is not harmless.
    """
    from rnnonnx.runtime import StreamPool

    try:
        # a pool tries the mask with random data before it uses it
        StreamPool(model, capacity=1, mask_input=name).close()
    except PoolError as error:
        raise InputError(
            error.message,
            expected=error.expected,
            received=error.received,
            remedy="leave the mask out: sequences are batched with those of their length",
        ) from error


class RowCheck:
    """Checks and casts what the rows have for one input.

    Args:
        tensor: The input.
        settings: Whether to cast, and what NaN is.
    """

    def __init__(self, tensor: Tensor, settings: Settings) -> None:
        self._name = tensor.name
        self._dtype = np.dtype(tensor.dtype)
        self._shape = row_shape(tensor)
        self._time = row_time_axis(tensor)
        self._cast = settings.cast
        self._finite = settings.nan == "refuse"

    def __call__(self, value: Array | Problem) -> Array | Problem:
        """The row as the model takes it, or what is wrong with it.

        Raises:
            InputError: Its dtype is not the input's, so that all rows are wrong.
        """
        if isinstance(value, Problem):
            return Problem(f"input {self._name!r}: {value.message}", value.expected, value.received)
        if value.ndim == len(self._shape) - 1 and self._shape[-1] == 1:
            value = value[..., None]  # a number a step, where the model takes steps of one number
        problem = self._misshapen(value)
        if problem is not None:
            return problem
        if value.dtype != self._dtype:
            value_or_problem = self._casted(value)
            if isinstance(value_or_problem, Problem):
                return value_or_problem
            value = value_or_problem
        if self._finite and value.dtype.kind == "f" and not np.isfinite(value).all():
            return Problem(
                f"input {self._name!r} has a NaN or an infinity",
                expected="finite numbers; nan='pass' runs the model with them",
            )
        return value

    def _misshapen(self, value: Array) -> Problem | None:
        fits = value.ndim == len(self._shape) and all(
            not isinstance(dim, int) or dim == size
            for dim, size in zip(self._shape, value.shape, strict=True)
        )
        if value.size == 0 and (value.ndim == 0 or value.shape[0] == 0 or fits):
            return Problem(f"input {self._name!r} is empty", expected="1 step or more")
        if not fits:
            return Problem(
                f"input {self._name!r} has the wrong shape",
                expected=f"[{', '.join('any' if d is None else str(d) for d in self._shape)}]",
                received=str(list(value.shape)),
            )
        return None

    def _casted(self, value: Array) -> Array | Problem:
        if not self._cast or not np.can_cast(value.dtype, self._dtype, "same_kind"):
            castable = np.can_cast(value.dtype, self._dtype, "same_kind")
            raise InputError(
                f"the column for the input {self._name!r} has another dtype than the model",
                expected=self._dtype.name,
                received=value.dtype.name,
                remedy="cast=True, or --cast" if castable else "store it in the input's dtype",
            )
        with np.errstate(over="ignore"):
            cast = value.astype(self._dtype)
        changed = value.dtype.kind in "iu" and (cast != value).any()
        if changed or (value.dtype.kind == "f" and (np.isinf(cast) & ~np.isinf(value)).any()):
            return Problem(f"input {self._name!r} has a number that {self._dtype} cannot hold")
        return cast
