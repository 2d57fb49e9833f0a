"""Tensors as lists of numbers in a message: one field for each kind of datatype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...errors import InputError
from .._tensors import datatype_of, dtype_of, from_raw, to_raw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._tensors import Array

FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The field of each datatype. FP16 has none: its values travel as bytes alone."""

_WIDE: Final = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}
"""What a field holds, where several datatypes share it."""


def from_contents(name: str, datatype: str, shape: Sequence[int], contents: Any) -> Array:
    """An input from an `InferTensorContents`.

    Raises:
        InputError: The datatype has no field, another field is filled, a number does not fit, or
            the number of values is wrong.
    """
    dtype = dtype_of(name, datatype)
    field = FIELDS.get(datatype)
    if field is None:
        raise InputError(
            f"input {name!r}: {datatype} has no field in contents",
            remedy="send its bytes in raw_input_contents",
        )
    filled = [found.name for found, _ in contents.ListFields()]
    if filled not in ([], [field]):
        raise InputError(
            f"the values of input {name!r} are in a field that {datatype} does not have",
            expected=field,
            received=", ".join(filled),
        )
    values = getattr(contents, field)
    array = np.fromiter(values, _WIDE.get(field, dtype), len(values))
    if array.dtype != dtype:
        bounds = np.iinfo(dtype)
        if array.size and not (bounds.min <= array.min() and array.max() <= bounds.max):
            raise InputError(
                f"the data of input {name!r} are no {datatype}: a number is out of range",
                expected=f"{bounds.min} to {bounds.max}",
            )
    # what is left to check is the size, as of bytes
    return from_raw(name, datatype, shape, to_raw(array.astype(dtype)))


def has_contents(array: Array) -> bool:
    """Whether an output can be written into an `InferTensorContents`."""
    return datatype_of(array.dtype) in FIELDS


def fill_contents(array: Array, contents: Any) -> None:
    """Write an output into an `InferTensorContents`; it has a field for it."""
    getattr(contents, FIELDS[datatype_of(array.dtype)]).extend(array.ravel().tolist())
