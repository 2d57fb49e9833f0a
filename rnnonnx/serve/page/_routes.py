"""The addresses of the page: `/`, and `/v2/overview` for what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from ._document import HEADERS, document
from ._overview import overview

if TYPE_CHECKING:
    from starlette.requests import Request

    from .._service import Service


def page_routes(service: Service) -> list[Route]:
    """The routes over a service."""

    async def page(_request: Request) -> Response:
        return Response(document(), media_type="text/html; charset=utf-8", headers=HEADERS)

    async def models_now(request: Request) -> Response:
        found = overview(service, request.state.caller)
        return Response(
            msgspec.json.encode(found),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    return [
        Route("/", page, methods=["GET"]),
        Route("/v2/overview", models_now, methods=["GET"]),
    ]
