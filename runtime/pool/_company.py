"""How long the first in line waits for others to join its batch."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._scheduler import Scheduler


class Company:
    """The company that a batch waits for. Everything is called under the pool's lock.

    Args:
        lock: That lock.
        scheduler: The queue.
        max_delay: Longest wait, in seconds.

    Attributes:
        streams: How many are open; the registry counts.
        awaited: Whether a batch waits.
    """

    def __init__(self, lock: threading.Lock, scheduler: Scheduler, max_delay: float) -> None:
        self.streams = 0
        self.awaited = False
        self._scheduler = scheduler
        self._max_delay = max_delay
        self._changed = threading.Condition(lock)

    def needed(self, rows: int) -> bool:
        """Whether a request of so many rows, and nobody else's, would wait."""
        return bool(self._max_delay) and rows < min(self.streams, self._scheduler.max_batch)

    def wait(self, going_on: Callable[[], bool]) -> None:
        """Wait until the first in line has company enough, or has waited for long enough.

        Args:
            going_on: Whether to wait at all; asked again whenever something has changed.
        """
        while self._max_delay and going_on():
            oldest = self._scheduler.oldest()
            if oldest is None or self._is_enough():
                return
            pause = oldest.arrived + self._max_delay - monotonic()
            if pause <= 0:
                return
            self.awaited = True
            try:
                self._changed.wait(pause)
            finally:
                self.awaited = False

    def joined(self) -> None:
        """Another request has come."""
        if self.awaited and self._is_enough():
            self._changed.notify()

    def changed(self) -> None:
        """There may be nobody to wait for any longer."""
        if self.awaited:
            self._changed.notify()

    def _is_enough(self) -> bool:
        """Whether nobody else can join the batch: it is full, or every stream waits already."""
        return self._scheduler.ready >= self.streams or self._scheduler.is_full()
