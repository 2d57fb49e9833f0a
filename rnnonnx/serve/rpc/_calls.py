"""What every call passes: its key, its errors as a status, the measurements and the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, Self

from grpc import StatusCode, stream_stream_rpc_method_handler, unary_unary_rpc_method_handler

from ...errors import RnnonnxError
from .._errors import Kind, refusal
from .._keys import ANYBODY
from ._status import CODES, text, trailing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .._keys import Caller
    from .._metrics import Metrics
    from .._service import Service
    from ._running import Running

    Unary = Callable[[Caller, bytes], Awaitable[Any]]
    Streaming = Callable[[Caller, Any], Awaitable[None]]

ACCESS: Final = logging.getLogger("rnnonnx.serve.access")
LOGGER: Final = logging.getLogger("rnnonnx.serve")


class Calls:
    """Makes handlers for grpc out of methods.

    Messages come and go as bytes: grpc would answer bytes that are no message as a bug of the
    server's.

    Args:
        service: Who knows the keys.
        metrics: Where measurements go.
        running: The calls that run.
    """

    def __init__(self, service: Service, metrics: Metrics, running: Running) -> None:
        self._service = service
        self._metrics = metrics
        self._running = running

    def unary(
        self,
        name: str,
        method: Unary,
        *,
        public: bool = False,
        codes: Mapping[Kind, StatusCode] = CODES,
    ) -> Any:
        """A handler of one request and one response.

        Args:
            name: The method's, for the measurements.
            method: Gives the response, a message, for who asks and the request.
            public: Whether it asks for no key, and counts against no rate.
            codes: The status of each failure.
        """

        async def call(data: bytes, context: Any) -> Any:
            with _Call(self._metrics, name) as ended:
                try:
                    caller = ANYBODY if public else self._caller(ended, context)
                    if not public:
                        self._service.admit(caller)
                    with self._running.one(refuse=not public):
                        response = (await method(caller, data)).SerializeToString()
                except RnnonnxError as error:
                    return await ended.refused(context, error, codes)
                ended.code = StatusCode.OK
                return response

        return unary_unary_rpc_method_handler(call)

    def stream(self, name: str, method: Streaming) -> Any:
        """A handler of many requests and responses.

        Args:
            name: The method's.
            method: Serves the call of a caller, given grpc's context. It counts the requests
                against the rate.
        """

        async def call(_requests: object, context: Any) -> None:
            with _Call(self._metrics, name) as ended:
                try:
                    caller = self._caller(ended, context)
                    with self._running.one():
                        await method(caller, context)
                except RnnonnxError as error:
                    await ended.refused(context, error)
                ended.code = StatusCode.OK

        return stream_stream_rpc_method_handler(call)

    def unserved(self, name: str, subject: str) -> Any:
        """A handler of a method that is not served.

        Args:
            name: The method's.
            subject: What it is about, for the message.
        """

        async def call(_data: bytes, context: Any) -> Any:
            with _Call(self._metrics, name) as ended:
                try:
                    self._caller(ended, context)
                except RnnonnxError as error:
                    return await ended.refused(context, error)
                ended.code = StatusCode.UNIMPLEMENTED
                return await context.abort(ended.code, f"{name}: {subject} is not served")

        return unary_unary_rpc_method_handler(call)

    def _caller(self, ended: _Call, context: Any) -> Caller:
        caller = self._service.authenticate(_authorization(context))
        ended.key = caller.name
        return caller


def _authorization(context: Any) -> str | None:
    for key, value in context.invocation_metadata():
        if key == "authorization" and isinstance(value, str):
            return value
    return None


class _Call:
    """Counts and times a call, and writes it to the log.

    Attributes:
        code: How it has ended; CANCELLED where nothing was sent.
        key: The name of its key.
    """

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self.code = StatusCode.CANCELLED
        self.key = ""

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.code is StatusCode.CANCELLED and kind is not None and issubclass(kind, Exception):
            self.code = StatusCode.UNKNOWN  # a bug; grpc answers and logs it
        seconds = time.perf_counter() - self._started
        self._metrics.request("grpc", self._name, self.code.name, seconds)
        if ACCESS.isEnabledFor(logging.INFO):
            ACCESS.info(
                "call",
                extra={
                    "method": self._name,
                    "status": self.code.name,
                    "milliseconds": round(seconds * 1e3, 3),
                    "key": self.key,
                },
            )

    async def refused(
        self, context: Any, error: RnnonnxError, codes: Mapping[Kind, StatusCode] = CODES
    ) -> Any:
        """End the call with an error.

        Raises:
            AbortError: Always; grpc takes it.
        """
        refused = refusal(error)
        self.code = codes[refused.kind]
        if refused.kind is Kind.INTERNAL:
            LOGGER.error("a request failed", exc_info=error)
        return await context.abort(self.code, text(refused), trailing(refused))
