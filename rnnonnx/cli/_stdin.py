"""Standard input as bytes, whatever kind of file it is."""

from __future__ import annotations

import select
import sys

from rnnonnx.errors import InputError


def read_stdin(size: int) -> bytes:
    """The next `size` bytes, fewer only at the end.

    NOTE: of a descriptor that does not block (another program may have set that) Python's read
    gives None or a part where nothing has come yet, which is no end.

    Raises:
        InputError: Standard input is closed.
    """
    if sys.stdin is None:  # the shell's `<&-`
        raise InputError("standard input is closed")
    stream = sys.stdin.buffer
    parts: list[bytes] = []
    left = size
    while left:
        part = stream.read(left)
        if part is None:
            select.select([stream], [], [])
            continue
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
