"""Every request counted and timed by its endpoint, and written to the log; `/metrics`."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .._metrics import Metrics

ACCESS: Final = logging.getLogger("rnnonnx.serve.access")


class Measured:
    """ASGI middleware.

    Args:
        app: What it stands before.
        metrics: Where measurements go.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0  # nothing was sent

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - started
            # NOTE: the endpoint's name, not the path: clients choose paths, and each label is kept
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.request("http", endpoint, status, seconds)
            if ACCESS.isEnabledFor(logging.INFO):
                _log(scope, endpoint, status, seconds)


def _log(scope: Scope, endpoint: str, status: int, seconds: float) -> None:
    caller = scope.get("state", {}).get("caller")
    ACCESS.info(
        "request",
        extra={
            "method": scope["method"],
            "path": scope["path"][:500],
            "endpoint": endpoint,
            "status": status,
            "milliseconds": round(seconds * 1e3, 3),
            "key": "" if caller is None else caller.name,
        },
    )


def metrics_endpoint(metrics: Metrics) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of `/metrics`."""

    async def scrape(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return scrape
