"""A limited number of places, and the line of those who wait for one.

Without a lock of its own: the pool's protects it. Places are handed from who leaves to who
waits first, so that nobody who comes later can overtake.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._scheduler import Seat


class Waiter:
    """Somebody who waits for places. Subclasses say how they are woken.

    Attributes:
        amount: How many places.
        granted: Whether they are taken for this waiter.
        seats: The streams that it has come for.
    """

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.granted = False
        self.seats: Sequence[Seat] = ()

    def wake(self) -> None:
        """Tell the waiter that `granted` is true, or that the gate has been shut."""
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread that waits."""

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self._event = threading.Event()

    def wake(self) -> None:
        """See the base class."""
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Wait until woken, but no longer than this."""
        self._event.wait(min(seconds, threading.TIMEOUT_MAX))


class TaskWaiter(Waiter):
    """A task of the running asyncio loop that waits.

    Attributes:
        future: What it awaits.
    """

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    async def within(self, seconds: float) -> None:
        """Wait until woken, but no longer than this."""
        with suppress(TimeoutError):  # it may have been granted at the last moment
            await asyncio.wait_for(self.future, None if math.isinf(seconds) else seconds)

    def wake(self) -> None:
        """See the base class."""
        try:
            self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:  # the loop is closed, and the task with it
            return

    def _settle(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Gate:
    """`limit` places.

    Attributes:
        used: How many are taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._line: deque[Waiter] = deque()

    @property
    def contested(self) -> bool:
        """Whether anybody waits for places."""
        return bool(self._line)

    def enter(self, amount: int = 1) -> bool:
        """Take places if there are as many, and nobody waits for them."""
        if self._line or self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def leave(self, amount: int = 1) -> None:
        """Give places back; who waits first gets them."""
        self.used -= amount
        if self._line:
            self._grant()

    def line_up(self, waiter: Waiter) -> None:
        """Wait. The waiter is woken once it has its places."""
        self._line.append(waiter)

    def give_up(self, waiter: Waiter) -> None:
        """Wait no longer, and give back what was granted meanwhile."""
        if waiter.granted:
            waiter.granted = False
            self.leave(waiter.amount)
        elif waiter in self._line:
            self._line.remove(waiter)
            self._grant()

    def shut(self) -> None:
        """Wake all who wait, with nothing granted."""
        while self._line:
            self._line.popleft().wake()

    def _grant(self) -> None:
        while self._line and self.used + self._line[0].amount <= self.limit:
            waiter = self._line.popleft()
            self.used += waiter.amount
            waiter.granted = True
            waiter.wake()
