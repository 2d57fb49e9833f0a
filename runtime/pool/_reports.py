"""Calling what users have given: a meter, an eviction callback. What they raise stays here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ._deputy import aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._scheduler import Request
    from ._stats import Meter

LOGGER: Final = logging.getLogger("rnnonnx.runtime.pool")


def guarded(what: str, call: Callable[..., object], *arguments: Any) -> bool:
    """Call somebody else's function; False, and a line in the log, if it raised."""
    try:
        aside(call, *arguments)
    except BaseException:  # whatever it raises, the other streams go on
        LOGGER.exception("%s raised", what)
        return False
    return True


class Reports:
    """Sends measurements to a meter.

    Args:
        meter: Where to; None is nowhere.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter

    def add(self, name: str, amount: int = 1) -> None:
        """A counter has grown."""
        if self._meter is not None and amount:
            guarded("the pool's meter", self._meter.add, name, amount)

    def batch(self, requests: Sequence[Request], started: float, ended: float) -> None:
        """A batch has run."""
        if self._meter is None or not requests:
            return
        rows = [len(request.seats) for request in requests]
        self.add("requests", len(requests))
        self.add("batches")
        self.add("rows", sum(rows))
        self.add("steps", sum(request.steps * n for request, n in zip(requests, rows, strict=True)))
        self.add("failed", sum(request.failed for request in requests))
        waits = [started - request.arrived for request in requests for _ in request.seats]
        self._record("batch_size", [float(sum(rows))])
        self._record("wait_seconds", waits)
        self._record("step_seconds", [ended - started])

    def _record(self, name: str, values: Sequence[float]) -> None:
        if self._meter is not None:
            guarded("the pool's meter", self._meter.record, name, values)
