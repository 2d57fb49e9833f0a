"""A Keras model with the weights that a file in a lower precision has.

Which of the model's weights a file has rounded, and to what, is found from both: rounded by the
exporter's rules, the model's weights must be in the file, unit by unit. So a file does not say
what it is compared with, and what is left of a difference from Keras is not the rounding of the
weights.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ml_dtypes import bfloat16
from onnx import TensorProto, numpy_helper

from ._compat import own_variables
from ._int8 import STEPS, along, by_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx

    from ._int8 import Int8
    from ._layers import LayerTable

Array = np.ndarray[Any, np.dtype[Any]]

# Of so large a part of a weight that the file has, the rest is damaged, and not another weight.
_ENOUGH: Final = 0.5
# Of fewer values, neighbours may all be apart in the file: a bias in which each gate has one.
_FEW: Final = 8
_KINDS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8)
HALF_DTYPES: Final = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(bfloat16)}


@dataclass(frozen=True, slots=True)
class Reading:
    """One way in which the exporter could round a weight to int8.

    Attributes:
        rounded: `[rows, columns]`, a scale for each column.
        turned: Whether rows and columns are those of the weight the other way round.
    """

    rounded: Int8
    turned: bool

    def values(self, shape: tuple[int, ...]) -> Array:
        """What the integers stand for, in the weight's own shape; float32."""
        wide = self.rounded.values * self.rounded.scales
        return np.ascontiguousarray((wide.T if self.turned else wide).reshape(shape))


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight of the model that the file has in a lower precision.

    Attributes:
        name: The layer's path and the weight's name.
        variable: The Keras variable.
        values: What it is rounded to, as float32 and in its shape.
        reading: For int8, how it was rounded.
    """

    name: str
    variable: Any
    values: Array
    reading: Reading | None = None


class ModelWeights:
    """The float32 weights of a model, to be recognised in a graph.

    Args:
        table: The model's layers.
    """

    def __init__(self, table: LayerTable) -> None:
        owners = [("", table.model), *((entry.path, entry.layer) for entry in table)]
        found = [(path, variable) for path, layer in owners for variable in own_variables(layer)]
        self.all = [item for item in found if str(item[1].dtype) == "float32"]

    @cached_property
    def _scales(self) -> Array:
        matrices = [np.asarray(variable) for _, variable in self.all if len(variable.shape) > 1]
        finite = [matrix for matrix in matrices if np.isfinite(matrix).all()]
        scales = [reading.rounded.scales.ravel() for m in finite for reading in _plain(m)]
        return np.unique(np.concatenate([np.ones(1, np.float32), *scales]))

    @cached_property
    def _values(self) -> Array:
        values = [np.asarray(variable).ravel() for _, variable in self.all]
        return np.unique(np.concatenate([np.zeros(1, np.float32), *values]))

    def has_units(self, array: Array, axes: tuple[int, ...]) -> bool:
        """Whether each unit of an array is one of a weight.

        Args:
            array: float32.
            axes: Those that the weights of one unit are along.
        """
        return bool(np.isin(along(array, axes).scales, self._scales).all())

    def has_values(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Whether each value of an array is one of a weight, or needs no rounding to a dtype."""
        return bool(
            (array == array.astype(dtype).astype(array.dtype)).all()
            or np.isin(array, self._values).all()
        )


@contextmanager
def rounded_weights(found: Sequence[Rounded]) -> Iterator[None]:
    """Give a model the rounded weights, and its own again at the end."""
    kept = [(item.variable, np.asarray(item.variable)) for item in found]
    try:
        for item in found:
            item.variable.assign(item.values)
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def find_rounded(model: onnx.ModelProto, table: LayerTable) -> tuple[Rounded, ...]:
    """The weights of a model that a file has rounded, and what they are rounded to."""
    stored: dict[str, list[Array]] = {}
    for item in model.graph.initializer:
        if item.data_type in _KINDS:
            layer = item.name.rpartition("/")[0]
            stored.setdefault(layer, []).append(numpy_helper.to_array(item).ravel())
    everything = [array for arrays in stored.values() for array in arrays]
    found = []
    for path, variable in ModelWeights(table).all:
        weight, name = np.asarray(variable), f"{path}/{variable.name}".strip("/")
        near = _near(stored, path)
        reading = _in_int8(weight, near)
        values = _in_halves(weight, near, everything)
        if reading is not None:
            found.append(Rounded(name, variable, reading.values(weight.shape), reading))
        elif values is not None:
            found.append(Rounded(name, variable, values))
    return tuple(found)


def _near(by_layer: dict[str, list[Array]], path: str) -> list[Array]:
    """What belongs to a layer, to one that holds it, or to one in it."""
    return [
        array
        for layer, arrays in by_layer.items()
        if not layer
        or not path
        or f"{layer}/".startswith(f"{path}/")
        or f"{path}/".startswith(f"{layer}/")
        for array in arrays
    ]


def _in_int8(weight: Array, stored: list[Array]) -> Reading | None:
    """How the file has rounded a weight to int8; None if it has not."""
    scales = [array for array in stored if array.dtype == np.float32]
    integers = any(array.dtype == np.int8 for array in stored)
    if weight.ndim < 2 or not weight.size or not np.isfinite(weight).all() or not integers:
        return None
    known = np.concatenate([np.empty(0, np.float32), *scales])
    # that with the most units: the largest weight of all is that of a unit as well
    best, found = 0, None
    for reading in (*_plain(weight), *_paired(weight)):
        used = reading.rounded.scales.ravel()
        # a unit without weights has the scale 1, as any other such unit
        used = used[np.abs(reading.rounded.values).max(axis=0) > 0]
        for each in as_stored(used):
            there = int(np.isin(each, known).sum())
            if there > max(best, _ENOUGH * each.size):
                best, found = there, reading
    return found


def as_stored(scales: Array) -> tuple[Array, Array]:
    """Scales as a file has them: as they are, and of a product of integers."""
    return scales, (scales / STEPS).astype(np.float32)


def _plain(weight: Array) -> Iterator[Reading]:
    yield from _readings(weight, lambda matrix: along(matrix, (0,)))


def _paired(weight: Array) -> Iterator[Reading]:
    yield from _readings(weight, by_columns)


def _readings(weight: Array, rule: Callable[[Array], Int8]) -> Iterator[Reading]:
    """A weight rounded with the units along its last axes, and along its first."""
    for split in range(1, weight.ndim):
        matrix = weight.reshape(int(np.prod(weight.shape[:split])), -1)
        yield Reading(rule(matrix), turned=False)
        yield Reading(rule(matrix.T), turned=True)


def _in_halves(weight: Array, near: list[Array], everything: list[Array]) -> Array | None:
    """A weight as the float16 or bfloat16 of a file; None if it is not in the file so.

    Args:
        weight: The model's.
        near: What the file has of its layer.
        everything: What it has of all: of two layers that read the same, one may hold both.
    """
    kinds = {array.dtype for array in everything} - {np.dtype(np.float32), np.dtype(np.int8)}
    with np.errstate(over="ignore"):
        halves = [weight.astype(dtype) for dtype in kinds]
    for place in (near, everything):
        for values in halves:
            if _holds(place, values):
                return values.astype(np.float32)
        if _holds(place, weight):
            return None
    return None


def _holds(stored: list[Array], weight: Array) -> bool:
    """Whether most of a weight is in one of some arrays.

    Single values of 16 bits are found anywhere. So neighbours are looked for, in the order that a
    weight has them, in the reverse one of its axes, or in that of a convolution: in each layout
    of ONNX's they are neighbours as well.
    """
    own = [array for array in stored if array.dtype == weight.dtype]
    if not own or not weight.size:
        return False
    if weight.size <= _FEW:
        return bool(np.isin(_bits(weight.ravel()), _bits(np.concatenate(own))).all())
    known = np.unique(np.concatenate([_neighbours(array) for array in own]))
    layouts = [weight.ravel("C"), weight.ravel("F")]
    if weight.ndim > 2:  # of a convolution: [..., channels, units] -> [units, channels, ...]
        layouts.append(np.moveaxis(weight, (-1, -2), (0, 1)).ravel())
    shares = [np.isin(_neighbours(layout), known).mean() for layout in layouts]
    return bool(max(shares) > _ENOUGH)


def _neighbours(flat: Array) -> Array:
    """Each value and the next as one number."""
    bits = _bits(flat)
    return (bits[:-1] << np.uint64(32)) | bits[1:]


def _bits(flat: Array) -> Array:
    return flat.view(np.dtype(f"u{flat.dtype.itemsize}")).astype(np.uint64)
