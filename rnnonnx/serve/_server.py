"""A server process: the service, its fronts, signals."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from ..errors import InputError
from ._listen import listen
from ._metrics import Metrics
from ._service import Service
from .http import create_app
from .page import page_routes
from .websocket import StreamEndpoint

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from starlette.applications import Starlette
    from starlette.types import Lifespan

    from ._settings import Settings
    from .rpc import RpcServer


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens.

    Attributes:
        http: The address for HTTP: `http://127.0.0.1:8000`.
        grpc: The address for gRPC: `127.0.0.1:8001`; None where there is none.
    """

    http: str
    grpc: str | None


def run_server(settings: Settings, announce: Callable[[Addresses], object]) -> None:
    """Serve until the process is told to end: by SIGTERM, or SIGINT (Ctrl-C).

    Then no new requests are taken, those that run have `settings.limits.drain` seconds, and the
    open sequences are kept in `settings.state_folder`.

    Args:
        settings: The server.
        announce: Called once, when requests are taken.

    Raises:
        RnnonnxError: It cannot start: a port is taken, a model or a key file is wrong.
        KeyboardInterrupt: It was ended by SIGINT.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _uvicorn_loop() as runner:
            runner.run(_serve(settings, announce))
    finally:
        signal.signal(signal.SIGTERM, before)


def _uvicorn_loop() -> asyncio.Runner:
    """A runner of the loop that uvicorn would choose: uvloop where it is installed."""
    factory = uvicorn.Config(app=_nothing, log_config=None).get_loop_factory()
    return asyncio.Runner(loop_factory=factory)


async def _nothing(*_arguments: object) -> None:
    """An application that is never called."""


async def _serve(settings: Settings, announce: Callable[[Addresses], object]) -> None:
    with closing(listen(settings.host, settings.http_port)) as listening:
        service = Service(settings)
        metrics = Metrics(service)
        rpc = _rpc(service, metrics)
        streams = StreamEndpoint(service, metrics)
        app = create_app(
            service,
            metrics=metrics,
            routes=[streams.route(), *page_routes(service)],
            lifespan=_lifespan(service, rpc),
        )
        server = _Uvicorn(
            _config(app, settings),
            rpc,
            lambda: announce(_addresses(settings, listening, rpc)),
            lambda: streams.connections.end(settings.limits.drain),
        )
        try:
            if await _started(service, server):
                if rpc is not None:
                    await rpc.start()
                await server.serve(sockets=[listening])
        finally:
            # a second time where all went well; the sequences are kept also where it did not
            await _to_its_end(_stop(service, rpc, patient=not server.force_exit))


def _rpc(service: Service, metrics: Metrics) -> RpcServer | None:
    if service.settings.grpc_port is None:
        return None
    from .rpc import RpcServer

    return RpcServer(service, metrics)


async def _stop(service: Service, rpc: RpcServer | None, *, patient: bool = True) -> None:
    """End the calls that run, then the service. HTTP's requests have ended."""
    if rpc is not None:
        await rpc.stop(patient=patient)
    await service.stop()


async def _started(service: Service, server: uvicorn.Server) -> bool:
    """Start the service; False if a SIGTERM comes before it has.

    From here on a SIGTERM ends the server. NOTE: uvicorn handles it while it runs, and raises it
    once more at its end, for the handler of before: then this one, which has nothing left to do.
    """
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(service.start())

    def end(*_arguments: object) -> None:
        server.should_exit = True
        loop.call_soon_threadsafe(starting.cancel)

    signal.signal(signal.SIGTERM, end)
    try:
        await starting
    except asyncio.CancelledError:
        if server.should_exit:
            return False
        raise
    return not server.should_exit


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that no interrupt may cut short; the interrupt has its effect after it."""
    task = asyncio.ensure_future(work)
    interrupt = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    task.result()


def _lifespan(service: Service, rpc: RpcServer | None) -> Lifespan[Starlette]:
    """What ends the service: uvicorn waits for it, after the last request and before it ends."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await _stop(service, rpc)

    return lifespan


class _Uvicorn(uvicorn.Server):
    """Uvicorn, which says when it listens, and ends together with WebSockets and gRPC."""

    def __init__(
        self,
        config: uvicorn.Config,
        rpc: RpcServer | None,
        listens: Callable[[], object],
        ends: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._rpc = rpc
        self._listens = listens
        self._ends = ends

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See the base class."""
        await super().startup(sockets)
        if self.started:
            self._listens()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See the base class."""
        if self._rpc is not None:
            self._rpc.begin_stop()
        ending = asyncio.ensure_future(self._ends())
        while not ending.done() and not self.force_exit:  # a second Ctrl-C does not wait
            await asyncio.wait((ending,), timeout=0.1)
        ending.cancel()
        await super().shutdown(sockets)


def _config(app: Starlette, settings: Settings) -> uvicorn.Config:
    tls = settings.tls
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=settings.limits.message,
        # NOTE: no time limit for the answer to a ping: a client that is slowed, since it sends
        # more than the model can do, has its answer stand behind all that
        ws_ping_timeout=None,
        # floats hardly get smaller, and what is packed may unpack to a lot
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=max(1, round(settings.limits.drain)),
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        ssl_ca_certs=None if tls is None or tls.clients is None else str(tls.clients),
        ssl_cert_reqs=_certificates(settings),
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            f"the TLS files cannot be used: {error}", expected="PEM files that belong together"
        ) from error
    return config


def _certificates(settings: Settings) -> ssl.VerifyMode:
    import ssl

    asks = settings.tls is not None and settings.tls.clients is not None
    return ssl.CERT_REQUIRED if asks else ssl.CERT_NONE


def _addresses(settings: Settings, listening: socket.socket, rpc: RpcServer | None) -> Addresses:
    scheme = "http" if settings.tls is None else "https"
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return Addresses(f"{scheme}://{name}:{port}", None if rpc is None else f"{name}:{rpc.port}")
