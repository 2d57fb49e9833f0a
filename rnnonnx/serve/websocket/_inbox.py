"""What a client has sent and nobody has worked on yet: a few messages, then it is not read."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

AHEAD: Final = 4
"""Messages that wait for the one that runs."""


class Inbox:
    """The messages of one connection.

    Where `AHEAD` of them wait nothing is read from the socket any more: then TCP slows the client.

    Args:
        websocket: The connection.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._messages: deque[str | bytes] = deque()
        self._room = asyncio.Semaphore(AHEAD)
        self._changed = asyncio.Event()
        self._stopped = False

    async def fill(self) -> None:
        """Read until the client has gone, or the server has closed the connection."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._room.acquire()
            text = message.get("text")
            self._messages.append(message["bytes"] if text is None else text)
            self._changed.set()

    async def next(self, seconds: float | None) -> str | bytes | None:
        """The next message; None once there is to be none.

        Raises:
            TimeoutError: None has come for so many seconds.
        """
        while not self._stopped and not self._messages:
            self._changed.clear()
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        if self._stopped:
            return None
        self._room.release()
        return self._messages.popleft()

    def stop(self) -> None:
        """Hand out no more messages, not even those that have come."""
        self._stopped = True
        self._changed.set()
