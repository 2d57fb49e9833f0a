"""Eviction callbacks that run, so that none is waited for by a call that it makes itself."""

from __future__ import annotations

from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING

from rnnonnx.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._scheduler import Seat


class Evictions:
    """The streams whose eviction callback runs, by the thread that it runs in."""

    def __init__(self) -> None:
        self._seats: dict[int, Seat] = {}

    @contextmanager
    def of(self, seat: Seat) -> Iterator[None]:
        """While this stream's callback runs here.

        NOTE: a callback that opens a stream in a full pool evicts within an eviction.
        """
        me = get_ident()
        before = self._seats.get(me)
        self._seats[me] = seat
        try:
            yield
        finally:
            if before is None:
                del self._seats[me]
            else:
                self._seats[me] = before

    def check(self, seats: Sequence[Seat]) -> None:
        """Whether this thread would wait for an eviction that waits for it.

        Args:
            seats: The streams that it asks for; none of them stands for the whole pool.

        Raises:
            PoolError: It would.
        """
        seat = self._seats.get(get_ident()) if self._seats else None
        if seat is not None and (seat in seats or not seats):
            raise PoolError(
                f"the eviction callback of the stream {seat.id!r} "
                + ("uses that stream" if seats else "closes the pool"),
                remedy="the snapshot that it is given has the state; it may use other streams",
            )
