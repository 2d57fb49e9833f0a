"""What every request passes first: the Host, the Origin, the key and its rate.

A browser sends a page's requests to any address, loopback as well. So a name that leads to this
machine only by a trick of DNS is refused by its Host, and another site's page by its Origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ...errors import RnnonnxError
from .._errors import Kind, RefusedError
from .._settings import is_loopback
from ._errors import refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .._backend import Backend
    from .._settings import Settings

PUBLIC: Final = frozenset(["/", "/v2/health/live", "/v2/health/ready", "/openapi.json"])
"""Addresses that ask for no key: whoever watches the process has none."""
_POLICY_VIOLATION: Final = 1008


class Gatekeeper:
    """ASGI middleware. Endpoints find the `Caller` in `request.state.caller`.

    A WebSocket's Host and Origin are checked here; its key is not, since browsers cannot send the
    header: its endpoint calls `Service.authenticate` itself, and `Service.admit` for each message.

    Args:
        app: What it stands before.
        service: Who knows the keys.
    """

    def __init__(self, app: ASGIApp, service: Backend) -> None:
        self._app = app
        self._service = service
        self._hosts = _allowed(service.settings)
        self._origins = frozenset(map(str.lower, service.settings.allowed_origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers, scope["type"])
            if scope["type"] == "http" and scope["path"] not in PUBLIC:
                caller = self._service.authenticate(headers.get("authorization"))
                self._service.admit(caller)
                scope.setdefault("state", {})["caller"] = caller
        except RnnonnxError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            else:
                await refused(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise RefusedError(
                Kind.FORBIDDEN,
                "the header Host names no host that this server has",
                expected=", ".join(sorted(self._hosts)),
                received=host[:200],
                remedy="--allowed-host NAME",
            )

    def _check_origin(self, headers: Headers, kind: str) -> None:
        origin = headers.get("origin")
        if origin is None or _authority(origin) == headers.get("host", "").lower():
            return
        if kind != "websocket" or origin.lower() not in self._origins:
            raise RefusedError(
                Kind.FORBIDDEN,
                "the request comes from a page of another site",
                received=origin[:200],
                remedy="--allowed-origin ORIGIN, for WebSockets",
            )


def _allowed(settings: Settings) -> frozenset[str] | None:
    if settings.allowed_hosts:
        return frozenset(map(str.lower, settings.allowed_hosts))
    if is_loopback(settings.host):
        return frozenset(["localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()])
    return None


def _name(host: str) -> str:
    """A Host without its port; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _authority(origin: str) -> str | None:
    """The host and port of an Origin; None where it is none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
