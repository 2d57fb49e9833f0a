"""Tensors as the protocol has them: its names of datatypes, raw bytes, JSON numbers.

Raw bytes are little-endian and in C order. A number of JSON must fit its datatype: a fraction
is no integer, 300 no INT8, 1e39 no FP32. Floats that JSON has no number for are the strings
"NaN", "Infinity" and "-Infinity", both ways.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from ..errors import InputError
from ._errors import Kind, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DATATYPES: Final = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's datatypes that a file of ours can have."""

UNUSED: Final = frozenset(["BYTES", "BF16"])
"""Datatypes of the protocol that no file of ours has."""

_NAMES: Final = {dtype: name for name, dtype in DATATYPES.items()}
_MOST_AXES: Final = 16

Odd: TypeAlias = Literal["NaN", "Infinity", "-Infinity"]


def datatype_of(dtype: object) -> str:
    """The protocol's name of a numpy dtype."""
    return _NAMES[np.dtype(dtype).newbyteorder("<")]  # type: ignore[call-overload]


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """The dtype of an input.

    Args:
        name: The input's, for the message.
        datatype: What the request says.

    Raises:
        InputError: It is no datatype that a model here can have.
    """
    try:
        return DATATYPES[datatype]
    except KeyError:
        what = "no model here takes" if datatype in UNUSED else "the protocol does not know"
        raise InputError(
            f"input {name!r} has a datatype that {what}",
            expected=", ".join(DATATYPES),
            received=datatype[:40],
        ) from None


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """An input from raw bytes.

    Raises:
        InputError: The datatype, the shape or the number of bytes is wrong.
    """
    dtype = dtype_of(name, datatype)
    size = _elements(name, shape) * dtype.itemsize
    if len(data) != size:
        raise InputError(
            f"the data of input {name!r} have another size than its shape",
            expected=f"{size} bytes: {list(shape)} of {datatype}",
            received=f"{len(data)} bytes",
        )
    array = np.frombuffer(data, dtype)
    if dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise InputError(f"the data of input {name!r} are no BOOL", expected="bytes of 0 and 1")
    return np.require(array, requirements="A").reshape(shape)


def from_json(
    name: str, datatype: str, shape: Sequence[int], data: bytes | msgspec.Raw, *, most: int
) -> Array:
    """An input from the JSON list of its values, flat or nested.

    Args:
        name: The input.
        datatype: As the protocol has it.
        shape: Its shape.
        data: The list.
        most: Most bytes that it may have as an array. A value takes ten times as many while it is
            read, so that neither a larger array nor more values than the shape has are.

    Raises:
        InputError: A value is of another kind or does not fit, or the number of values is wrong.
        RefusedError: The array would be larger.
    """
    dtype = dtype_of(name, datatype)
    size = _elements(name, shape)
    check_size(name, size * dtype.itemsize, most)
    text = bytes(data)
    room = math.prod(max(dim, 1) for dim in shape)
    if text.count(b",") >= room or text.count(b"[") > 1 + len(shape) * room:
        raise InputError(
            f"the data of input {name!r} have another size than its shape",
            expected=f"{list(shape)}, flat or nested",
            received="more",
        )
    try:
        values = _decoder(dtype.kind, _depth(name, text)).decode(text)
        array = _converted(values, dtype)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        reason = (
            str(error) if isinstance(error, msgspec.MsgspecError) else "out of range, or ragged"
        )
        raise InputError(
            f"the data of input {name!r} are no {datatype}: {reason}",
            expected=f"a list of {datatype}",
        ) from error
    if array.size != size or (array.ndim > 1 and array.shape != tuple(shape)):
        raise InputError(
            f"the data of input {name!r} have another size than its shape",
            expected=f"{list(shape)}, flat or nested",
            received=list(array.shape),
        )
    return array.reshape(shape)


def check_size(name: str, size: int, most: int) -> None:
    """Check that an input is not too large.

    Args:
        name: The input.
        size: Its bytes.
        most: Most bytes that one may have.

    Raises:
        RefusedError: It is.
    """
    if size > most:
        raise RefusedError(
            Kind.TOO_LARGE,
            f"input {name!r} is larger than the server takes; no state has changed",
            expected=f"at most {most} bytes",
            received=f"{size} bytes",
        )


def to_raw(array: Array) -> bytes:
    """An output as raw bytes."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def to_json(array: Array) -> list[Any]:
    """An output as a flat list of what JSON has."""
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else _odd(value) for value in values]
    return values


def _odd(value: float) -> Odd:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _elements(name: str, shape: Sequence[int]) -> int:
    if len(shape) > _MOST_AXES or any(not 0 <= dim < 2**31 for dim in shape):
        raise InputError(
            f"input {name!r} has no shape that a tensor can have",
            expected=f"at most {_MOST_AXES} sizes, 0 or more",
            received=list(shape)[: _MOST_AXES + 1],
        )
    return math.prod(shape)


def _depth(name: str, text: bytes) -> int:
    """How deep the list is nested, by the brackets that it begins with."""
    depth = 0
    for byte in text:
        if byte == ord("["):
            depth += 1
        elif byte not in b" \t\r\n":
            break
        if depth > _MOST_AXES:
            break
    if not 0 < depth <= _MOST_AXES:
        raise InputError(
            f"the data of input {name!r} are no list of values",
            expected=f"a list, nested at most {_MOST_AXES} deep",
        )
    return depth


@cache
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    item: Any = {"b": bool, "f": float | Odd}.get(kind, int)
    for _ in range(depth):
        item = list[item]
    return msgspec.json.Decoder(item)


def _converted(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """Values of the right kind as an array.

    Raises:
        ValueError: They are ragged, or one does not fit.
        OverflowError: One does not fit.
    """
    if dtype.kind == "b":
        return np.array(values, dtype)
    if dtype.kind == "f":
        wide = np.array(values, np.float64)
        with np.errstate(over="ignore"):
            array = wide.astype(dtype)
        if np.isinf(array).any() and not np.array_equal(np.isinf(array), np.isinf(wide)):
            raise ValueError
        return array
    if dtype == np.uint64:
        # NOTE: some of its numbers fit no int64, and numpy would take -1 for the largest. As
        # objects ragged lists would pass, as floats they do not
        wide = np.array(values, object).reshape(np.array(values, np.float64).shape)
    else:
        wide = np.array(values, np.int64)
    bounds = np.iinfo(dtype)
    if wide.size and not (bounds.min <= wide.min() and wide.max() <= bounds.max):
        raise OverflowError
    return wide.astype(dtype)
