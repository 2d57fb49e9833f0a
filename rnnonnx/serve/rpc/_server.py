"""The gRPC server: its address, TLS, limits, start and end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from ...errors import InputError
from ._methods import Methods
from ._running import Running

if TYPE_CHECKING:
    from .._metrics import Metrics
    from .._service import Service
    from .._settings import Settings, Tls

COMPRESSIONS: Final = {
    None: grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


_TELLING: Final = 0.1
"""Seconds in which calls are still told that the server goes down, when no other runs."""
_LAST: Final = 1.0
"""Seconds that grpc has to send the last of it."""


class RpcServer:
    """gRPC over a service, in the event loop that runs it.

    Args:
        service: The server; who makes it starts and stops it.
        metrics: Where measurements go.

    Attributes:
        port: Where it listens, once it does.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._settings = service.settings
        self._running = Running(service.settings.limits.drain)
        self._stopped: asyncio.Task[None] | None = None
        self._server: Any = grpc.aio.server(
            options=_options(service.settings),
            compression=COMPRESSIONS[service.settings.grpc_compression],
        )
        methods = Methods(service, metrics, self._running)
        self._server.add_generic_rpc_handlers((methods.handler(),))
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: The address is no address here or is taken, or the TLS files are wrong.
        """
        host = self._settings.host.strip("[]")
        port = self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._settings.tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = _credentials(self._settings.tls)
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {host} port {port} for gRPC",
                remedy="--host and --grpc-port choose others; port 0 is any that is free",
            ) from error
        await self._server.start()

    def begin_stop(self) -> asyncio.Task[None]:
        """Take no new calls. Those that run have the time of `limits.drain` to end."""
        if self._stopped is None:
            self._running.stopping.set()
            self._stopped = asyncio.ensure_future(self._drain())
        return self._stopped

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.limits.drain):
                await self._running.none()
                await asyncio.sleep(_TELLING)
        await self._server.stop(_LAST)

    async def stop(self, *, patient: bool = True) -> None:
        """The same, and wait until all calls have ended; without patience they are cut off."""
        stopped = self.begin_stop()
        if not patient:
            await self._server.stop(0)
        await stopped


def _options(settings: Settings) -> list[tuple[str, Any]]:
    return [
        # as sent, and once more when it is unpacked
        ("grpc.max_receive_message_length", settings.limits.body),
        # NOTE: otherwise two servers share a port, and each gets some of the calls
        ("grpc.so_reuseport", 0),
    ]


def _credentials(tls: Tls) -> Any:
    try:
        return grpc.ssl_server_credentials(
            [(tls.key.read_bytes(), tls.certificate.read_bytes())],
            None if tls.clients is None else tls.clients.read_bytes(),
            require_client_auth=tls.clients is not None,
        )
    except OSError as error:
        raise InputError(f"the TLS files cannot be read: {error}") from error
