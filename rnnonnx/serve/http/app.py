"""The ASGI application: the protocol's addresses, `/metrics`, and what stands before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from ...errors import RnnonnxError
from .._metrics import Metrics
from ._errors import on_bug, on_client_gone, on_http_error, on_rnnonnx_error
from ._gatekeeper import Gatekeeper
from ._measured import Measured, metrics_endpoint
from ._routes import Api

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute
    from starlette.types import Lifespan

    from .._backend import Backend


def create_app(
    service: Backend,
    *,
    metrics: Metrics | None = None,
    routes: Sequence[BaseRoute] = (),
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """The application over a service.

    Args:
        service: The server; who makes it starts and stops it.
        metrics: Where measurements go, which fronts may share; None makes some.
        routes: Routes beside those of the protocol.
        lifespan: As Starlette has it.
    """
    metrics = Metrics(service) if metrics is None else metrics
    app = Starlette(
        routes=[
            *Api(service).routes(),
            Route("/metrics", metrics_endpoint(metrics), methods=["GET"]),
            *routes,
        ],
        middleware=[
            Middleware(Measured, metrics=metrics),
            Middleware(Gatekeeper, service=service),
        ],
        exception_handlers={
            RnnonnxError: on_rnnonnx_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_client_gone,
            Exception: on_bug,
        },
        lifespan=lifespan,
    )
    # NOTE: an address with a slash too many is none; a redirect would lose the body of a POST
    app.router.redirect_slashes = False
    return app
