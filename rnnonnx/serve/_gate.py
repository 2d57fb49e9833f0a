"""Who uses a model now, and how its replacement waits for them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from ._errors import RETRY_SECONDS, Kind, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterator


class Gate:
    """Many may be inside, or one alone.

    Who wants to be alone has nobody enter from then on, and waits until all have left.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._unlocked = asyncio.Event()
        self._unlocked.set()
        self._left = asyncio.Event()
        self._one = asyncio.Lock()

    async def enter(self) -> None:
        """Come in, as soon as nobody is alone inside."""
        while not self._unlocked.is_set():
            await self._unlocked.wait()
        self._inside += 1

    def leave(self) -> None:
        """Go."""
        self._inside -= 1
        if not self._inside:
            self._left.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside alone."""
        async with self._one:
            self._unlocked.clear()
            try:
                while self._inside:
                    self._left.clear()
                    await self._left.wait()
                yield
            finally:
                self._unlocked.set()


class Lanes:
    """A line for each sequence: one request of it at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, tuple[asyncio.Lock, list[int]]] = {}

    def __len__(self) -> int:
        """Lines in which anybody stands."""
        return len(self._lanes)

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for one's turn, and have it."""
        lock, count = self._lanes.setdefault(key, (asyncio.Lock(), [0]))
        count[0] += 1
        try:
            async with lock:
                yield
        finally:
            count[0] -= 1
            if not count[0]:
                del self._lanes[key]


class Places:
    """A limited number of places, without a line: who finds none is told so.

    Args:
        limit: How many.
        full: What is told then.
    """

    def __init__(self, limit: int, full: str) -> None:
        self._limit = limit
        self._full = full
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for a while.

        Raises:
            RefusedError: There is none.
        """
        if self._taken >= self._limit:
            raise RefusedError(
                Kind.FULL,
                self._full,
                expected=f"at most {self._limit}",
                retry_after=RETRY_SECONDS,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def waiting_places(limit: int, model: str) -> Places:
    """Places for the requests of a model that wait or run."""
    return Places(
        limit,
        f"as many requests of model {model!r} wait as there is room for; no state has changed",
    )
