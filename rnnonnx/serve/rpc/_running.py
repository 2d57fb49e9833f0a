"""The calls that run, and the end of them when the server goes down."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._errors import Kind, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Running:
    """Counts calls.

    NOTE: grpc's server cuts off calls that come while it stops, without a word. So it stops once
    none runs, and until then calls that come are told that it goes down.

    Args:
        drain: Seconds that calls have to end.

    Attributes:
        stopping: Set when the server goes down.
    """

    def __init__(self, drain: float) -> None:
        self.stopping = asyncio.Event()
        self._drain = drain
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one(self, *, refuse: bool = True) -> Iterator[None]:
        """Run a call.

        Args:
            refuse: Whether it is refused when the server goes down.

        Raises:
            RefusedError: The server goes down.
        """
        if refuse and self.stopping.is_set():
            raise self.going_down()
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    def going_down(self) -> RefusedError:
        """The error for who is not answered any more."""
        return RefusedError(
            Kind.UNAVAILABLE,
            "the server goes down; requests without a response have changed no state",
            retry_after=self._drain,
        )

    async def none(self) -> None:
        """Wait until no call runs."""
        await self._none.wait()
