"""What a store holds of a stream, and what a store must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...errors import InputError


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a stream is: what compare-and-set compares.

    Attributes:
        step: How many requests it has been stepped by.
        life: A token that a stream gets when it begins. One that is deleted and begins again under
            the same name has another: a step number alone could be that of the old one.
    """

    step: int
    life: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A stream after a step.

    Attributes:
        mark: Where it is.
        state: What `Stream.snapshot` gives; empty where the stream has ended. Nothing in it is
            run when it is read.
        request: What the last request was, so that it is known when it comes again.
        answer: What it was answered.
    """

    mark: Mark
    state: bytes
    request: str
    answer: bytes


class StateStore(Protocol):
    """Holds the last step of each stream. Threads and processes may share one.

    Every method raises StoreError where the store cannot be reached; whether a `put` has taken
    effect is then not known, and the same request again finds out.
    """

    def get(self, stream: str) -> Entry | None:
        """The stream's entry; None where there is none, or it has expired."""

    def put(self, stream: str, entry: Entry, *, expected: Mark | None) -> bool:
        """Write an entry if the stream is where it is expected to be, as one step.

        Args:
            stream: Which one.
            entry: What it becomes.
            expected: Where it must be; None where there must be none.

        Returns:
            Whether it was written.
        """

    def delete(self, stream: str) -> bool:
        """Forget a stream; whether there was one."""

    def close(self) -> None:
        """Let go of files and connections."""


def check_stream(stream: object) -> str:
    """The id, if a store can hold it.

    Raises:
        InputError: It is no text, empty, or holds half of a surrogate pair.
    """
    if not isinstance(stream, str) or not stream:
        raise InputError("a stream's id is no text", expected="text", received=repr(stream))
    try:
        stream.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "a stream's id holds half of a surrogate pair", received=repr(stream)
        ) from error
    return stream


def check_expiry(expiry: object) -> None:
    """Raise InputError unless `expiry` is a number of seconds above 0, or None."""
    if expiry is None:
        return
    if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not 0 < expiry < 1e10:
        raise InputError("`expiry` is no time", expected="seconds, or None", received=repr(expiry))
