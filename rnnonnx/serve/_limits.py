"""How many requests a key may send in a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import limits

from ..errors import InputError
from ._errors import Kind, RefusedError

if TYPE_CHECKING:
    from ._keys import Caller


class RateLimit:
    """The limit of each key; who comes without one shares that of everybody.

    Args:
        rate: `"100/second"`, `"5000 per minute"`; None is no limit.

    Raises:
        InputError: The text is no rate.
    """

    def __init__(self, rate: str | None) -> None:
        self._item: limits.RateLimitItem | None = None
        if rate is not None:
            try:
                self._item = limits.parse(rate)
            except ValueError as error:
                raise InputError(
                    "the rate limit is none", expected="for instance 100/second", received=rate
                ) from error
        self._window = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())

    def check(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            RefusedError: It is one too many.
        """
        if self._item is None or self._window.hit(self._item, caller.name):
            return
        stats = self._window.get_window_stats(self._item, caller.name)
        raise RefusedError(
            Kind.LIMITED,
            "this key has sent more requests than it may; no state has changed",
            expected=f"at most {self._item}",
            retry_after=max(0.0, stats.reset_time - time.time()),
        )
