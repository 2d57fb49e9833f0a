"""The connections of a server: so many at most, and told when it goes down."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .._errors import RETRY_SECONDS, Kind, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._inbox import Inbox


class Connections:
    """All connections of a server.

    Args:
        limit: How many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inboxes: set[Inbox] = set()
        self._ending = False
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._inboxes)

    @contextmanager
    def one(self, inbox: Inbox) -> Iterator[None]:
        """Be a connection for a while.

        Args:
            inbox: What is stopped when the server goes down.

        Raises:
            RefusedError: There are too many, or the server goes down.
        """
        if self._ending:
            raise RefusedError(Kind.UNAVAILABLE, "the server goes down", retry_after=RETRY_SECONDS)
        if len(self) >= self._limit:
            raise RefusedError(
                Kind.FULL,
                "there are as many connections as there is room for",
                expected=f"at most {self._limit}",
                retry_after=RETRY_SECONDS,
            )
        self._inboxes.add(inbox)
        self._none.clear()
        try:
            yield
        finally:
            self._inboxes.remove(inbox)
            if not self._inboxes:
                self._none.set()

    async def end(self, seconds: float) -> None:
        """Have each finish the frame that it runs, and close.

        Those that take longer than so many seconds are left to be cut off.
        """
        self._ending = True
        for inbox in self._inboxes:
            inbox.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()
