"""Errors as HTTP has them: a status, and the JSON object `{"error": ...}` that clients read."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...errors import RnnonnxError
from .._errors import Kind, one_line, refusal
from ._documents import Error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

LOGGER: Final = logging.getLogger("rnnonnx.serve")

_CLIENT_GONE: Final = 499
"""As nginx has it."""

STATUSES: Final = {
    Kind.INVALID: HTTPStatus.BAD_REQUEST,
    Kind.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Kind.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.CONFLICT: HTTPStatus.CONFLICT,
    Kind.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Kind.TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Kind.FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Kind.FULL: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response."""
    return Response(
        msgspec.json.encode(Error(message)),
        status,
        media_type="application/json",
        headers=dict(headers or {}),
    )


def refused(error: RnnonnxError) -> Response:
    """An error of ours as a response."""
    refused = refusal(error)
    headers = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
    if refused.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.kind is Kind.INTERNAL:
        LOGGER.error("a request failed", exc_info=error)
    return error_response(STATUSES[refused.kind], one_line(refused), headers)


async def on_rnnonnx_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for errors of ours."""
    assert isinstance(error, RnnonnxError)  # noqa: S101 (registered for these alone)
    return refused(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own errors: no such address, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for these alone)
    text = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return error_response(error.status_code, text, error.headers)


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Starlette's handler for a client that goes before its body has come."""
    return client_gone()


def client_gone() -> Response:
    """What nobody receives: it is for the log and the metrics."""
    return Response(status_code=_CLIENT_GONE)


async def on_bug(_request: Request, error: Exception) -> Response:
    """Starlette's handler for everything else, which it then raises for uvicorn's log."""
    return error_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"the server failed ({type(error).__name__}); its log has the details. The sequence of"
        " the request, if it has one, is as it was before, or as after it",
    )
