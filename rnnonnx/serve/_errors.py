"""What went wrong with a request, in words that every protocol has a code for."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import (
    InputError,
    ManifestError,
    ModelFileError,
    PoolClosedError,
    PoolError,
    PoolFullError,
    ProviderError,
    QueueFullError,
    RnnonnxError,
    RunError,
    StateError,
    StepConflictError,
    StoreError,
    StreamClosedError,
)


class Kind(Enum):
    """What kind of failure it is. HTTP has a status for each, gRPC a code."""

    INVALID = "invalid"
    """The request is malformed, or does not fit the model."""
    UNAUTHENTICATED = "unauthenticated"
    """There is no key, or none that is known."""
    FORBIDDEN = "forbidden"
    """The key, or whoever sends the request, may not do it."""
    NOT_FOUND = "not found"
    """There is no such model or sequence."""
    CONFLICT = "conflict"
    """The sequence is open already, or what is open does not fit what is asked."""
    TOO_LARGE = "too large"
    """The request or one of its tensors is larger than is taken."""
    TIMEOUT = "timeout"
    """The request did not come whole in time."""
    FAILED = "failed"
    """The request was right, and ONNX Runtime could not run the model on its values."""
    LIMITED = "limited"
    """The key has sent too much, or has too many sequences open; later is better."""
    FULL = "full"
    """There is no room for another sequence or request; later is better."""
    UNAVAILABLE = "unavailable"
    """The server or the model is not ready, or goes down."""
    INTERNAL = "internal"
    """A bug of the server's."""


class RefusedError(RnnonnxError):
    """A request is refused, or has failed, for the reason that `kind` says.

    Args:
        kind: What kind of failure it is.
        message: What went wrong, and what has become of the state.
        retry_after: After how many seconds to try again; None where that does not help.
        expected: As in `RnnonnxError`, like the next two.
        received: See there.
        remedy: See there.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after: float | None = None,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, expected=expected, received=received, remedy=remedy)
        self.kind = kind
        self.retry_after = retry_after


RETRY_SECONDS: Final = 1.0
"""What a client that found no room is told to wait."""

# The first that fits decides, so a subclass stands before its base.
_KINDS: Final[tuple[tuple[type[RnnonnxError], Kind], ...]] = (
    (InputError, Kind.INVALID),
    (QueueFullError, Kind.FULL),
    (PoolFullError, Kind.FULL),
    (StreamClosedError, Kind.NOT_FOUND),
    (PoolClosedError, Kind.UNAVAILABLE),
    (StateError, Kind.CONFLICT),
    (StepConflictError, Kind.CONFLICT),
    (StoreError, Kind.UNAVAILABLE),
    (RunError, Kind.FAILED),
    (ModelFileError, Kind.FAILED),
    (ManifestError, Kind.FAILED),
    (ProviderError, Kind.FAILED),
    (PoolError, Kind.FAILED),
)


def refusal(error: RnnonnxError, *, state: str | None = None) -> RefusedError:
    """An error of ours as a refusal.

    Args:
        error: What was raised.
        state: What has become of the sequence, as a sentence without a capital or full stop.
    """
    kind, retry = Kind.INTERNAL, None
    if isinstance(error, RefusedError):
        kind, retry = error.kind, error.retry_after
    else:
        kind = next((kind for cls, kind in _KINDS if isinstance(error, cls)), Kind.INTERNAL)
        retry = RETRY_SECONDS if kind in (Kind.FULL, Kind.UNAVAILABLE) else None
    message = error.message if state is None else f"{error.message}; {state}"
    return RefusedError(
        kind,
        message,
        retry_after=retry,
        expected=error.expected,
        received=error.received,
        remedy=error.remedy,
    )


def one_line(error: RnnonnxError) -> str:
    """The whole message in one line, as the protocols carry it."""
    return "; ".join(part.strip() for part in str(error).splitlines())
