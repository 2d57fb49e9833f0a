"""How much of a large request is not tensors as bytes, found without building it.

Two bytes can ask for a message within a message, which takes some eighty in memory: 64 MiB of them
take gigabytes and seconds. Only bytes of tensors need to be large, and they take what they are.
"""

from __future__ import annotations

from typing import Final

from .._errors import Kind, RefusedError

MOST: Final = 4 * 2**20
"""Most bytes of a request beside raw_input_contents; what grpc takes of any message by itself."""
MOST_FIELDS: Final = 10_000
"""Most fields of a request that is larger than that."""
RAW: Final = 7
"""The number of raw_input_contents in a `ModelInferRequest`."""
_MOST_BITS: Final = 63


def check_outline(data: bytes, *, raw: int | None) -> None:
    """Check a request before it is built.

    Args:
        data: The request.
        raw: The number of the field that may be large; None where it has none.

    Raises:
        RefusedError: Too much of it is not that field, or it is malformed.
    """
    size = len(data)
    if size <= MOST:
        return
    place = large = fields = 0
    while place < size:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, place = _varint(data, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, place = _varint(data, place)
            place += length
            large += length if number == raw else 0
        else:
            raise _malformed()
        fields += 1
        if place > size:
            raise _malformed()
        if place - large > MOST or fields > MOST_FIELDS:
            raise RefusedError(
                Kind.TOO_LARGE,
                "the request is larger than the server takes; no state has changed",
                expected=f"at most {MOST} bytes beside raw_input_contents",
                remedy="send large inputs in raw_input_contents",
            )


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = 0
    for shift in range(0, _MOST_BITS + 1, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _malformed()


def _malformed() -> RefusedError:
    return RefusedError(
        Kind.INVALID, "the request is malformed: its fields do not fit into each other"
    )
