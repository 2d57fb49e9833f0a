"""Bodies: read up to a limit, unpacked up to the same limit, packed for who asks for it."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import TYPE_CHECKING, Final

from .._errors import Kind, RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from .._settings import Limits

_ASIDE: Final = 256 * 1024
"""Bodies from this size on are packed and unpacked in a thread, so that the loop goes on."""
_SLICE: Final = 16 * 1024
"""Bytes that are unpacked at a time."""
_MEMBERS: Final = 1000
"""Most members of one gzip body: one is usual."""
_EITHER: Final = 32 + zlib.MAX_WBITS
"""For zlib: gzip or zlib, by the first bytes."""
_FAST: Final = 1
"""Level of compression: outputs are floats, of which more effort saves little."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request, unpacked.

    Raises:
        RefusedError: It is too large or late, packed in a way that is not known, or damaged.
    """
    limit = limits.body
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(limits.receive):
            body = await _whole(request, limit)
    except TimeoutError:
        raise RefusedError(
            Kind.TIMEOUT,
            "the body has not come in time; no state has changed",
            expected=f"within {limits.receive:g} s",
        ) from None
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RefusedError(
            Kind.INVALID,
            "the body is packed in a way that the server does not know",
            expected="Content-Encoding: gzip or deflate",
            received=encoding[:40],
        )
    if len(body) < _ASIDE // 8:  # a thousandfold bomb of this size is unpacked to the limit alone
        return unpack(body, limit)
    return await asyncio.to_thread(unpack, body, limit)


async def _whole(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def unpack(body: bytes, limit: int) -> bytes:
    """Unpack gzip or zlib.

    Args:
        body: The bytes; of gzip several members may follow each other.
        limit: Most bytes of the result.

    Raises:
        RefusedError: The result would be larger, or the bytes are damaged.
    """
    parts: list[bytes] = []
    size = at = 0
    packed = zlib.decompressobj(_EITHER)
    members = 1
    try:
        # NOTE: by slices: zlib copies what is behind a member, which would be all of the rest
        while at < len(body) or not at:
            given = body[at : at + _SLICE]
            at += len(given)
            part = packed.decompress(given, limit + 1 - size)
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            at -= len(packed.unused_data)
            if packed.eof and at < len(body):
                packed = zlib.decompressobj(_EITHER)
                members += 1
                if members > _MEMBERS:
                    raise _damaged(f"it has more than {_MEMBERS} members")
            elif not given:
                break
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if not packed.eof:
        raise _damaged("it is cut short")
    return b"".join(parts)


def accepted(header: str | None) -> str | None:
    """Which encoding a response is to have: `gzip`, `deflate`, or None for neither."""
    wanted = {}
    for item in (header or "").lower().split(","):
        name, _, options = item.partition(";")
        quality = options.strip().removeprefix("q=")
        try:
            wanted[name.strip()] = float(quality) if options else 1.0
        except ValueError:
            wanted[name.strip()] = 0.0
    best = max(("gzip", "deflate"), key=lambda name: wanted.get(name, 0.0))
    return best if wanted.get(best, 0.0) > 0 else None


async def pack(body: bytes, encoding: str) -> bytes:
    """A body in an encoding."""
    call = gzip.compress if encoding == "gzip" else zlib.compress
    if len(body) < _ASIDE:
        return call(body, _FAST)
    return await asyncio.to_thread(call, body, _FAST)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        Kind.TOO_LARGE,
        "the body is larger than the server takes; no state has changed",
        expected=f"at most {limit} bytes, also when it is unpacked",
    )


def _damaged(reason: str) -> RefusedError:
    return RefusedError(Kind.INVALID, f"the body cannot be unpacked: {reason}")
