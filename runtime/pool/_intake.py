"""What callers feed, checked, and which of it can share a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import InputError

from .._feed import check_feed, empty_outputs

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from .._feed import Feed
    from .._model import Model
    from .._state import Array

_KEPT: Final = 1024
"""Shapes that are remembered as right. Chunks have few."""


@dataclass(slots=True, eq=False)  # not frozen, which would cost a microsecond a request
class Checked:
    """A checked feed.

    Attributes:
        arrays: One array an input that callers give, in the manifest's order, C-contiguous.
        steps: Time steps of each row.
        shape: What of the feed must be equal for two to share a batch.
        feed: The feed, where it has no time steps and is not to be run.
    """

    arrays: tuple[Array, ...]
    steps: int
    shape: Hashable
    feed: Feed | None = None


class Intake:
    """Checks feeds. What has passed once passes by its shapes alone from then on.

    Args:
        model: The model.
        mask_input: The input that the pool may give itself; None where there is none.
    """

    def __init__(self, model: Model, mask_input: str | None) -> None:
        self._model = model
        self._manifest = model.manifest
        self._mask = mask_input
        inputs = model.manifest.inputs
        self._inputs = tuple((item.name, np.dtype(item.dtype)) for item in inputs)
        # an input that all rows of a batch share must be the same, to the byte
        self._shared = tuple(i for i, item in enumerate(inputs) if item.batch_axis is None)
        self._seen: dict[Hashable, tuple[int, Hashable]] = {}
        self._names: dict[tuple[str, ...] | None, tuple[str, ...]] = {}

    def names(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The outputs that are wanted.

        Raises:
            InputError: A name is none of an output's.
        """
        known = wanted if wanted is None else tuple(wanted) if isinstance(wanted, list) else None
        if (wanted is None or known is not None) and known in self._names:
            return self._names[known]
        names = tuple(self._model.output_names(wanted))
        if known is not None or wanted is None:
            self._names[known] = names
        return names

    def check(self, feed: Mapping[str, Any], rows: int) -> Checked:
        """Check a feed for this many streams.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
        """
        arrays = self._as_before(feed)
        if arrays is not None:
            known = self._seen.get((rows, *[array.shape for array in arrays]))
            if known is not None:
                return Checked(arrays, known[0], self._keyed(known[1], arrays))
        if self._mask is not None and isinstance(feed, dict) and self._mask not in feed:
            feed = {**feed, self._mask: self._full_mask(feed)}
        checked = check_feed(self._manifest, feed, batch=None, pinned=None)
        if checked.batch not in (None, rows):
            raise InputError(
                "the inputs have another number of rows than there are streams",
                expected=f"{rows} rows" if rows != 1 else "1 row: [1, time, ...]",
                received=f"{checked.batch} rows",
                remedy="pool.run_many(streams, x) steps many streams at once",
            )
        arrays = tuple(checked.arrays[name] for name, _ in self._inputs)
        if checked.steps == 0:
            return Checked(arrays, 0, None, checked)
        shape = self._shape(arrays, checked)
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        self._seen[(rows, *[array.shape for array in arrays])] = checked.steps, shape
        return Checked(arrays, checked.steps, self._keyed(shape, arrays))

    def empty(self, names: Sequence[str], feed: Feed, rows: int) -> list[Array]:
        """What a chunk of no time steps gives.

        Raises:
            InputError: An output has no value then.
        """
        return empty_outputs(self._manifest, names, feed, rows)

    def _as_before(self, feed: Any) -> tuple[Array, ...] | None:
        """The arrays where nothing but their shapes is left to check; otherwise None."""
        if type(feed) is not dict or len(feed) != len(self._inputs):
            return None
        arrays = []
        for name, dtype in self._inputs:
            array = feed.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype:
                return None
            if not array.flags.c_contiguous:
                return None
            arrays.append(array)
        return tuple(arrays)

    def _shape(self, arrays: Sequence[Array], checked: Feed) -> Hashable:
        """The shapes without their batch axes, and without time where the pool pads it."""
        shapes = []
        for item, array in zip(self._manifest.inputs, arrays, strict=True):
            sizes: list[int | None] = list(array.shape)
            if item.batch_axis is not None:
                sizes[item.batch_axis] = None
            if self._mask is not None and item.time_axis is not None:
                if sizes[item.time_axis] != checked.steps:
                    raise InputError(
                        f"input {item.name!r} has another length than the mask",
                        expected=f"{checked.steps} time steps",
                        received=f"{sizes[item.time_axis]}",
                    )
                sizes[item.time_axis] = None
            shapes.append(tuple(sizes))
        return tuple(shapes)

    def _keyed(self, shape: Hashable, arrays: Sequence[Array]) -> Hashable:
        if not self._shared:
            return shape
        return (shape, *[arrays[i].tobytes() for i in self._shared])

    def _full_mask(self, feed: Mapping[str, Any]) -> Array:
        """A mask of the shape that the other inputs have, which masks nothing."""
        for item in self._manifest.inputs:
            value = feed.get(item.name)
            if item.time_axis is None or item.batch_axis is None or value is None:
                continue
            shape = np.shape(value)
            if len(shape) == len(item.shape):
                return np.ones((shape[item.batch_axis], shape[item.time_axis]), np.bool_)
        return np.ones((1, 1), np.bool_)
