"""The methods of the protocol over a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grpc import method_handlers_generic_handler

from .._errors import RefusedError
from .._gate import Places
from .._parameters import read_carry
from . import _documents as documents
from ._calls import Calls
from ._codec import read_parameters, read_request, write_response
from ._messages import (
    SERVICE,
    ModelConfigRequest,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveResponse,
    ServerReadyResponse,
    parse,
)
from ._status import REPOSITORY_CODES
from ._stream import InferStream

if TYPE_CHECKING:
    from .._keys import Caller
    from .._metrics import Metrics
    from .._service import Service
    from ._running import Running

NOT_SERVED: Final = {
    "SystemSharedMemoryStatus": "shared memory",
    "SystemSharedMemoryRegister": "shared memory",
    "SystemSharedMemoryUnregister": "shared memory",
    "CudaSharedMemoryStatus": "shared memory of CUDA",
    "CudaSharedMemoryRegister": "shared memory of CUDA",
    "CudaSharedMemoryUnregister": "shared memory of CUDA",
    "TraceSetting": "tracing",
    "LogSettings": "changing the log",
}
"""Methods of Triton's extensions that are not served, and what they are about."""


class Methods:
    """The methods.

    Args:
        service: The server.
        metrics: Where measurements go.
        running: The calls that run.
    """

    def __init__(self, service: Service, metrics: Metrics, running: Running) -> None:
        self._service = service
        self._running = running
        self._calls = Calls(service, metrics, running)
        self._streams = Places(
            service.settings.limits.waiting, "as many streams are open as there is room for"
        )

    def handler(self) -> Any:
        """Grpc's handler of them all."""
        unary = self._calls.unary
        handlers = {
            "ServerLive": unary("ServerLive", self._live, public=True),
            "ServerReady": unary("ServerReady", self._ready, public=True),
            "ServerMetadata": unary("ServerMetadata", self._server),
            "ModelReady": unary("ModelReady", self._model_ready),
            "ModelMetadata": unary("ModelMetadata", self._metadata),
            "ModelConfig": unary("ModelConfig", self._config),
            "ModelStatistics": unary("ModelStatistics", self._statistics),
            "ModelInfer": unary("ModelInfer", self._infer),
            "ModelStreamInfer": self._calls.stream("ModelStreamInfer", self._stream_infer),
            "RepositoryIndex": unary("RepositoryIndex", self._index),
            "RepositoryModelLoad": unary("RepositoryModelLoad", self._load, codes=REPOSITORY_CODES),
            "RepositoryModelUnload": unary(
                "RepositoryModelUnload", self._unload, codes=REPOSITORY_CODES
            ),
        }
        for name, subject in NOT_SERVED.items():
            handlers[name] = self._calls.unserved(name, subject)
        return method_handlers_generic_handler(SERVICE, handlers)

    async def _live(self, _caller: Caller, _data: bytes) -> Any:
        return ServerLiveResponse(live=True)

    async def _ready(self, _caller: Caller, _data: bytes) -> Any:
        return ServerReadyResponse(
            ready=self._service.ready and not self._running.stopping.is_set()
        )

    async def _server(self, _caller: Caller, _data: bytes) -> Any:
        return documents.server()

    async def _model_ready(self, _caller: Caller, data: bytes) -> Any:
        wanted = parse(ModelReadyRequest, data)
        try:
            ready = self._service.is_ready(wanted.name, wanted.version)
        except RefusedError:  # there is no such model: as Triton answers, it is not ready
            ready = False
        return ModelReadyResponse(ready=ready)

    async def _metadata(self, _caller: Caller, data: bytes) -> Any:
        wanted = parse(ModelMetadataRequest, data)
        return documents.metadata(self._service.metadata(wanted.name, wanted.version))

    async def _config(self, _caller: Caller, data: bytes) -> Any:
        wanted = parse(ModelConfigRequest, data)
        host, model = self._service.models.loaded(wanted.name, wanted.version)
        return documents.config(host.name, model.manifest, self._service.settings.pooling)

    async def _statistics(self, _caller: Caller, data: bytes) -> Any:
        wanted = parse(ModelStatisticsRequest, data)
        return documents.statistics(self._service.statistics(wanted.name, wanted.version))

    async def _index(self, _caller: Caller, data: bytes) -> Any:
        wanted = parse(RepositoryIndexRequest, data)
        return documents.index(self._service.index(ready=wanted.ready))

    async def _load(self, caller: Caller, data: bytes) -> Any:
        wanted = parse(RepositoryModelLoadRequest, data)
        await self._service.load(
            caller, wanted.model_name, read_carry(read_parameters(wanted.parameters))
        )
        return RepositoryModelLoadResponse()

    async def _unload(self, caller: Caller, data: bytes) -> Any:
        wanted = parse(RepositoryModelUnloadRequest, data)
        await self._service.unload(
            caller, wanted.model_name, read_carry(read_parameters(wanted.parameters))
        )
        return RepositoryModelUnloadResponse()

    async def _infer(self, caller: Caller, data: bytes) -> Any:
        parsed = read_request(parse(ModelInferRequest, data))
        return write_response(parsed, await self._service.infer(caller, parsed.request))

    async def _stream_infer(self, caller: Caller, context: Any) -> None:
        with self._streams.one():
            await InferStream(self._service, caller, context, self._running).run()
