"""The endpoint `/v2/models/{model}/stream`: a connection from its handshake to its end."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from ...errors import RnnonnxError
from .._errors import Kind, RefusedError
from .._live import LiveStream
from .._models import VERSION
from ..http._errors import refused
from ._codec import FAILED, POLICY, RESTART, BrokenError, hello, read_text
from ._connections import Connections
from ._conversation import Conversation, failed, status_of
from ._documents import LimitsInfo, Open
from ._inbox import AHEAD, Inbox

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from .._keys import Caller
    from .._metrics import Metrics
    from .._service import Service
    from ._documents import Outgoing

_KEY_SECONDS: Final = 10.0
"""How long a client without the header has to send its key."""
_ENCODER: Final = msgspec.json.Encoder()
_NORMAL: Final = 1000


class StreamEndpoint:
    """WebSockets over a service.

    Args:
        service: The server.
        metrics: Where frames are counted.

    Attributes:
        connections: Those that there are.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self.connections = Connections(service.settings.limits.connections)

    def route(self) -> WebSocketRoute:
        """The address."""
        return WebSocketRoute("/v2/models/{model}/stream", self.stream)

    async def stream(self, websocket: WebSocket) -> None:
        """One connection."""
        inbox = Inbox(websocket)
        try:
            with self.connections.one(inbox):
                caller = self._admitted(websocket)
                with suppress(WebSocketDisconnect):  # the client has gone while it was answered
                    await websocket.accept()
                    await self._accepted(websocket, inbox, caller)
        except RnnonnxError as error:
            # NOTE: before the handshake is done it is an answer of HTTP, which says more than a
            # code to who can read it
            await websocket.send_denial_response(refused(error))

    def _admitted(self, websocket: WebSocket) -> Caller | None:
        """Who is connected; None for who has not said it yet.

        Raises:
            RefusedError: The key is not known, or there is no such model.
        """
        header = websocket.headers.get("authorization")
        if header is None and self._service.asks_for_keys:
            return None
        caller = self._service.authenticate(header)
        self._service.admit(caller)
        self._service.models.loaded(websocket.path_params["model"])
        return caller

    async def _accepted(self, websocket: WebSocket, inbox: Inbox, caller: Caller | None) -> None:
        reader = asyncio.create_task(inbox.fill())
        work = asyncio.create_task(self._work(websocket, inbox, caller))
        try:
            await asyncio.wait((reader, work), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # the client has gone: what waits for its batch is taken back
            reader.cancel()
            work.cancel()
            await asyncio.gather(reader, work, return_exceptions=True)
        if work.cancelled():
            return
        if work.exception() is not None and not isinstance(work.exception(), WebSocketDisconnect):
            await websocket.close(FAILED, "the server failed; its log has the details")
        code, reason = work.result()
        await websocket.close(code, reason)

    async def _work(
        self, websocket: WebSocket, inbox: Inbox, caller: Caller | None
    ) -> tuple[int, str]:
        """Answer frames until the connection is to be closed.

        Returns:
            The code and the reason.
        """
        model = websocket.path_params["model"]
        first = None
        try:
            if caller is None:
                caller, first = await self._introduced(inbox)
            stream = LiveStream(self._service, caller, model)
        except BrokenError as error:
            return error.code, error.reason
        except RnnonnxError as error:
            await _send(websocket, failed(error, "", None))
            return POLICY, "see the error"
        try:
            manifest = self._service.models.loaded(model)[1].manifest
            await _send(websocket, hello(model, VERSION, manifest, self._limits()))
            talk = Conversation(self._service, caller, stream, manifest)
            if first is not None:
                await _send(websocket, await talk.opened(first))
            return await self._frames(websocket, inbox, talk)
        except BrokenError as error:
            return error.code, error.reason
        finally:
            # NOTE: shielded, so that a server that goes down does not leave the row taken
            await asyncio.shield(stream.leave())

    async def _introduced(self, inbox: Inbox) -> tuple[Caller, Open]:
        """Who the client says it is, in its first frame.

        Raises:
            RefusedError: It is no frame with a key that is known.
            BrokenError: None has come, or it is no JSON.
        """
        try:
            message = await inbox.next(_KEY_SECONDS)
        except TimeoutError:
            raise BrokenError(POLICY, "no key has come") from None
        if message is None:
            raise BrokenError(RESTART, "the server goes down")
        frame = read_text(message) if isinstance(message, str) else None
        key = frame.key if isinstance(frame, Open) else msgspec.UNSET
        if not isinstance(frame, Open) or isinstance(key, msgspec.UnsetType):
            raise RefusedError(
                Kind.UNAUTHENTICATED,
                "this server asks for an API key",
                expected='the header `Authorization: Bearer KEY`, or first {"type": "open",'
                ' "key": KEY}',
            )
        caller = self._service.authenticate(f"Bearer {key}")
        self._service.admit(caller)
        return caller, frame

    async def _frames(
        self, websocket: WebSocket, inbox: Inbox, talk: Conversation
    ) -> tuple[int, str]:
        idle = self._service.settings.pooling.idle_timeout
        while not talk.over:
            try:
                message = await inbox.next(idle)
            except TimeoutError:
                return POLICY, f"no frame for {idle:g} s"
            if message is None:
                return RESTART, "the server goes down"
            started = time.perf_counter()
            answer = await talk.answer(message)
            seconds = time.perf_counter() - started
            self._metrics.request("websocket", "stream", status_of(answer), seconds)
            await _send(websocket, answer)
        return _NORMAL, ""

    def _limits(self) -> LimitsInfo:
        settings = self._service.settings
        return LimitsInfo(
            settings.limits.message, settings.limits.tensor, AHEAD, settings.pooling.idle_timeout
        )


async def _send(websocket: WebSocket, answer: Outgoing | bytes) -> None:
    if isinstance(answer, bytes):
        await websocket.send_bytes(answer)
    else:
        await websocket.send_text(_ENCODER.encode(answer).decode())
