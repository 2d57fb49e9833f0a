"""Waiting for a place: in the queue, or among the open streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnonnx.errors import PoolError

from ._arguments import as_seconds
from ._deputy import about_to_block
from ._gate import ThreadWaiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._engine import Engine
    from ._gate import Gate, Waiter
    from ._scheduler import Seat


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
        waiter = ThreadWaiter(amount)
        if self.line_up(seats, waiter, wait):
            return
        try:
            about_to_block(waiter.wake)
            waiter.sleep(wait)
            about_to_block(waiter.wake)
        except BaseException:  # nobody waits for it any longer: the places are for others
            self.give_up(waiter)
            raise
        self.settle(waiter)

    def line_up(self, seats: Sequence[Seat], waiter: Waiter, wait: float) -> bool:
        """Take the waiter's places: True. False if it stands in the line for them.

        Raises:
            PoolError: There are none, and it does not wait; or the pool or a stream is closed.
        """
        engine, gate = self._engine, self._gate
        with engine.lock:
            engine.check(seats)
            waiter.granted = gate.enter(waiter.amount)
            if waiter.granted or (wait > 0 and waiter.amount <= gate.limit):
                waiter.seats = seats
                for seat in seats:  # what is waited for is not idle
                    seat.awaited += 1
                if not waiter.granted:
                    gate.line_up(waiter)
                return waiter.granted
        raise self.refused()

    def settle(self, waiter: Waiter) -> None:
        """After the wait.

        Raises:
            PoolError: The waiter has no places.
        """
        engine = self._engine
        with engine.lock:
            if waiter.granted:
                return
            self._leave(waiter)
            engine.check(())
        raise self.refused()

    def give_up(self, waiter: Waiter) -> None:
        """Leave the line, or the places if they have been granted."""
        with self._engine.lock:
            self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        for seat in waiter.seats:
            seat.awaited -= 1
        waiter.seats = ()
        self._gate.give_up(waiter)

    def refused(self) -> PoolError:
        """Count a refusal; the error."""
        self._engine.refused()
        return self._full()


def checked_wait(wait: object) -> float:
    """A number of seconds, from 0 to infinity.

    Raises:
        PoolError: It is none.
    """
    if wait == 0.0 and type(wait) is float:  # the usual case
        return 0.0
    seconds = as_seconds(wait)
    if seconds is None or not seconds >= 0:
        raise PoolError(
            "`wait` is no time",
            expected="seconds, 0 or more; math.inf for as long as it takes",
            received=repr(wait),
        )
    return seconds
