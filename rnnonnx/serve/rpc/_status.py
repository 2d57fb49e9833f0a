"""Errors as gRPC has them: a status code, and one line of text."""

from __future__ import annotations

import math
from typing import Final

from grpc import StatusCode

from .._errors import Kind, RefusedError, one_line

CODES: Final = {
    Kind.INVALID: StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Kind.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: StatusCode.NOT_FOUND,
    Kind.CONFLICT: StatusCode.ALREADY_EXISTS,
    # as gRPC itself says of a message that is too large
    Kind.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    Kind.FAILED: StatusCode.FAILED_PRECONDITION,
    Kind.LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Kind.FULL: StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Kind.INTERNAL: StatusCode.INTERNAL,
}

REPOSITORY_CODES: Final = CODES | {Kind.CONFLICT: StatusCode.FAILED_PRECONDITION}
"""For loading: the conflict is with the sequences that are open."""

RETRY_AFTER: Final = "retry-after"
"""Metadata behind a refusal: after how many seconds to try again, as the header in HTTP."""
_LONGEST: Final = 4000
"""Characters of a message; clients take some 8 KB of metadata in all."""


def text(refused: RefusedError) -> str:
    """The message of a refusal."""
    line = one_line(refused)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def trailing(refused: RefusedError) -> tuple[tuple[str, str], ...]:
    """The metadata of a refusal."""
    if refused.retry_after is None:
        return ()
    return ((RETRY_AFTER, str(max(1, math.ceil(refused.retry_after)))),)
