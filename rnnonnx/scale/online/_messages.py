"""What a front asks a replica, and what it is told.

An error is told as a value: Ray would wrap it in one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...serve._errors import Kind, RefusedError, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...errors import RnnonnxError
    from ...serve._tensors import Array


@dataclass(frozen=True, slots=True)
class Ask:
    """A step of a stream.

    Attributes:
        inputs: One array an input, by name.
        outputs: The outputs that are wanted, in this order; None is all.
        stream: Which stream; empty for a model without states, and then nothing below counts.
        step: How many requests it has been stepped by.
        request: What tells this request from another for the same step; None is what it asks.
        end: Whether the stream ends with it.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] | None
    stream: str = ""
    step: int = 0
    request: str | None = None
    end: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it.

    Attributes:
        outputs: One array an output, by name.
        time_steps: Time steps that the stream has been carried; None for a model without states.
        replayed: Whether it had been answered before.
    """

    outputs: Mapping[str, Array]
    time_steps: int | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """An error, as `RefusedError` has it."""

    kind: str
    message: str
    retry_after: float | None
    expected: str | None
    received: str | None
    remedy: str | None

    @classmethod
    def of(cls, error: RnnonnxError, *, state: str | None = None) -> Denied:
        """An error of ours, with what has become of the stream."""
        refused = refusal(error, state=state)
        return cls(
            refused.kind.value,
            refused.message,
            refused.retry_after,
            None if refused.expected is None else str(refused.expected),
            None if refused.received is None else str(refused.received),
            refused.remedy,
        )

    def error(self) -> RefusedError:
        """The error again."""
        return RefusedError(
            Kind(self.kind),
            self.message,
            retry_after=self.retry_after,
            expected=self.expected,
            received=self.received,
            remedy=self.remedy,
        )
