"""The addresses of the protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from ... import __version__
from .._errors import Kind, RefusedError
from .._parameters import read_carry
from .._service import PLATFORM
from ._body import accepted, pack, read_body
from ._codec import HEADER, read_request, write_response
from ._documents import (
    IndexItem,
    IndexRequest,
    ModelDocument,
    RepositoryRequest,
    ServerDocument,
    TensorDocument,
)
from ._errors import client_gone, error_response
from ._openapi import document as openapi
from ._statistics import document as statistics

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request

    from .._backend import Backend

Result = TypeVar("Result")
Document = TypeVar("Document")


class Api:
    """The endpoints over a service.

    Args:
        service: The server.
    """

    def __init__(self, service: Backend) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """All routes."""
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        repository = "/v2/repository"
        found = [
            # what is asked for most stands first: Starlette looks from top to bottom
            Route(f"{model}/infer", self.infer, methods=["POST"]),
            Route(f"{version}/infer", self.infer, methods=["POST"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/models/stats", self.statistics, methods=["GET"]),
            Route(f"{repository}/index", self.index, methods=["POST"]),
            Route(f"{repository}/models/{{model}}/load", self.load, methods=["POST"]),
            Route(f"{repository}/models/{{model}}/unload", self.unload, methods=["POST"]),
        ]
        for path in (model, version):
            found += [
                Route(path, self.model, methods=["GET"]),
                Route(f"{path}/ready", self.model_ready, methods=["GET"]),
                Route(f"{path}/stats", self.statistics, methods=["GET"]),
            ]
        return found

    async def openapi(self, _request: Request) -> Response:
        """What this server understands, as an OpenAPI document."""
        return _json(openapi())

    async def server(self, _request: Request) -> Response:
        """The server's name and extensions."""
        return _json(ServerDocument("rnnonnx", __version__, list(self._service.extensions)))

    async def live(self, _request: Request) -> Response:
        """Whether the process answers."""
        return Response()

    async def ready(self, _request: Request) -> Response:
        """Whether requests are taken."""
        if self._service.ready:
            return Response()
        return error_response(
            503, "the server is not ready: a model is not loaded, or it goes down"
        )

    async def model(self, request: Request) -> Response:
        """What a model takes and gives."""
        found = self._service.metadata(*_named(request))
        tensors = [
            [TensorDocument(item.name, item.datatype, list(item.shape)) for item in side]
            for side in (found.inputs, found.outputs)
        ]
        return _json(ModelDocument(found.name, [found.version], PLATFORM, *tensors))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model is loaded."""
        name, version = _named(request)
        if self._service.is_ready(name, version):
            return Response()
        return error_response(503, f"model {name!r} is not loaded")

    async def statistics(self, request: Request) -> Response:
        """What one model, or each, has done."""
        return _json(statistics(self._service.statistics(*_named(request))))

    async def index(self, request: Request) -> Response:
        """All models that may be served."""
        wanted = await self._document(request, IndexRequest)
        return _json(
            [
                IndexItem(
                    item.name, item.version, "READY" if item.ready else "UNAVAILABLE", item.reason
                )
                for item in self._service.index(ready=wanted.ready)
            ]
        )

    async def load(self, request: Request) -> Response:
        """Load a model, or replace it by what its file holds now."""
        wanted = await self._document(request, RepositoryRequest)
        name, _ = _named(request)
        await self._service.load(request.state.caller, name, read_carry(wanted.parameters))
        return Response()

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        wanted = await self._document(request, RepositoryRequest)
        name, _ = _named(request)
        await self._service.unload(request.state.caller, name, read_carry(wanted.parameters))
        return Response()

    async def infer(self, request: Request) -> Response:
        """Run a model, or step a sequence of it."""
        limits = self._service.settings.limits
        body = await read_body(request, limits)
        name, version = _named(request)
        header = request.headers.get(HEADER)
        parsed = read_request(name, version, body, header, most=limits.tensor)
        running = self._service.infer(request.state.caller, parsed.request)
        response = await while_connected(request, running)
        if response is None:
            return client_gone()
        content, length = write_response(parsed, response)
        headers = {} if length is None else {HEADER: str(length)}
        encoding = accepted(request.headers.get("accept-encoding"))
        if encoding is not None:
            content = await pack(content, encoding)
            headers["Content-Encoding"] = encoding
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(content, headers=headers, media_type=kind)

    async def _document(self, request: Request, kind: type[Document]) -> Document:
        body = await read_body(request, self._service.settings.limits)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise RefusedError(Kind.INVALID, f"the request is malformed: {error}") from error


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Await work for a client whose body has been read; None if the client goes before.

    The work is cancelled then. Where that comes too late, what it has given is returned.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    finally:
        gone.cancel()
        task.cancel()
    return None if task.cancelled() else task.result()


def _named(request: Request) -> tuple[str, str]:
    """The model and version of an address."""
    parameters = request.path_params
    return parameters.get("model", ""), parameters.get("version", "")


def _json(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")
