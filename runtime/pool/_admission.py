"""Waiting for a place: in the queue, or among the open streams."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

from rnnonnx.errors import PoolError

from ._gate import TaskWaiter, ThreadWaiter, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._engine import Engine
    from ._gate import Gate
    from ._scheduler import Seat

Kind = TypeVar("Kind", bound=Waiter)


class Door:
    """The way to the places behind a gate.

    Args:
        engine: The pool's.
        gate: Where the places are.
        full: The error where there are none.
    """

    def __init__(self, engine: Engine, gate: Gate, full: Callable[[], PoolError]) -> None:
        self._engine = engine
        self._gate = gate
        self._full = full

    def enter(self, seats: Sequence[Seat], amount: int, wait: float) -> None:
        """Take places, in a thread.

        Args:
            seats: Streams that must be open for it.
            amount: How many places.
            wait: How long to wait for them, in seconds; 0 is not at all.

        Raises:
            PoolError: There are none in time, or the pool or a stream is closed.
        """
        waiter = self._line_up(seats, amount, wait, ThreadWaiter)
        if waiter is None:
            return
        try:
            waiter.sleep(wait)
        except BaseException:  # an interrupt: the places are for somebody else
            self._give_up(waiter)
            raise
        self._settle(waiter)

    async def enter_in_loop(self, seats: Sequence[Seat], amount: int, wait: float) -> None:
        """As `enter`, in a task, whose loop goes on meanwhile."""
        waiter = self._line_up(seats, amount, wait, TaskWaiter)
        if waiter is None:
            return
        try:
            await asyncio.wait_for(waiter.future, None if math.isinf(wait) else wait)
        except TimeoutError:
            pass  # it may have been granted at the last moment
        except BaseException:  # a cancellation
            self._give_up(waiter)
            raise
        self._settle(waiter)

    def _line_up(
        self, seats: Sequence[Seat], amount: int, wait: float, kind: Callable[[int], Kind]
    ) -> Kind | None:
        engine, gate = self._engine, self._gate
        with engine.lock:
            engine.check(seats)
            if gate.enter(amount):
                return None
            if wait > 0 and amount <= gate.limit:
                waiter = kind(amount)
                gate.line_up(waiter)
                return waiter
        raise self._refused()

    def _settle(self, waiter: Waiter) -> None:
        engine = self._engine
        with engine.lock:
            if waiter.granted:
                return
            self._gate.give_up(waiter)
            engine.check(())
        raise self._refused()

    def _give_up(self, waiter: Waiter) -> None:
        with self._engine.lock:
            self._gate.give_up(waiter)

    def _refused(self) -> PoolError:
        self._engine.refused()
        return self._full()


def checked_wait(wait: object) -> float:
    """A number of seconds, from 0 to infinity.

    Raises:
        PoolError: It is none.
    """
    if wait == 0.0 and type(wait) is float:  # the usual case
        return 0.0
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
        raise PoolError(
            "`wait` is no time",
            expected="seconds, 0 or more; math.inf for as long as it takes",
            received=repr(wait),
        )
    return float(wait)
