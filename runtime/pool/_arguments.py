"""The numbers that a pool is made with, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import PoolError

if TYPE_CHECKING:
    from .._model import Model

_MAX_BATCH: Final = 256
_QUEUE: Final = 4
"""Requests for each stream that may wait where nothing else is said."""
_LARGEST: Final = 2**31


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool is limited to. `StreamPool` describes each.

    Attributes:
        capacity: Most streams.
        max_batch: Most rows of a batch.
        min_batch: Fewest rows that the model is run with.
        max_delay: Longest wait for company, in seconds.
        max_queue: Most rows that wait.
        idle_timeout: Seconds without a request that make a stream idle; None is never.
    """

    capacity: int
    max_batch: int
    min_batch: int
    max_delay: float
    max_queue: int
    idle_timeout: float | None

    @classmethod
    def checked(
        cls,
        model: Model,
        capacity: object,
        max_batch: object,
        max_delay: object,
        max_queue: object,
        min_batch: object,
        idle_timeout: object,
    ) -> Limits:
        """From what a caller gave.

        Raises:
            PoolError: A number is out of range, or contradicts another or the file.
        """
        rows = _count("capacity", capacity)
        pinned = model.pinned_batch
        most = pinned or min(_MAX_BATCH, rows)
        most = most if max_batch is None else _count("max_batch", max_batch)
        # a file of a fixed batch is always run with that many rows
        fewest = max(pinned or 1, _count("min_batch", min_batch))
        if pinned is not None and max(most, fewest) > pinned:
            raise PoolError(
                "the file fixes the batch to fewer rows than were asked for",
                expected=f"at most {pinned}",
                received=f"max_batch={most}, min_batch={fewest}",
                remedy="export the model without `batch=` for a batch of any size",
            )
        queue = _QUEUE * rows if max_queue is None else _count("max_queue", max_queue)
        delay = _seconds("max_delay", max_delay, least=0.0)
        idle = None if idle_timeout is None else _seconds("idle_timeout", idle_timeout, least=1e-3)
        return cls(rows, most, fewest, delay, queue, idle)


def _count(name: str, value: Any) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 1 <= int(value) < _LARGEST:
        raise PoolError(
            f"`{name}` is out of range", expected="a whole number, 1 or more", received=repr(value)
        )
    return int(value)


def _seconds(name: str, value: object, *, least: float) -> float:
    seconds = as_seconds(value)
    if seconds is None or not least <= seconds < _LARGEST:
        raise PoolError(
            f"`{name}` is out of range",
            expected=f"a number of seconds, {least:g} or more",
            received=repr(value),
        )
    return seconds


def as_seconds(value: Any) -> float | None:
    """Any real number as a float, infinity where it is too large for one; None for another."""
    # NOTE: numpy registers its floats and integers as Python's kinds of numbers
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if abs(value) == value else -math.inf


def check_calls(on_evict: object, meter: object) -> None:
    """Whether what is to be called can be.

    Raises:
        PoolError: It cannot.
    """
    if on_evict is not None and not callable(on_evict):
        raise PoolError(
            "`on_evict` cannot be called",
            expected="a function of an id and a snapshot",
            received=repr(on_evict),
        )
    methods = [getattr(meter, name, None) for name in ("add", "record")]
    if meter is not None and not all(map(callable, methods)):
        raise PoolError(
            "`meter` is no Meter",
            expected="an object with the methods `add` and `record`",
            received=repr(meter),
        )
