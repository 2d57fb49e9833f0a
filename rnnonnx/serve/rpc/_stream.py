"""One call of ModelStreamInfer: many requests, of many sequences, and their responses.

Requests are run as they come, so that those of different sequences share batches; the responses
of one sequence come in the order of its requests, those of different sequences as they are done.
A request that fails is answered by a message with its error, and the call goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from grpc.aio import EOF

from ...errors import RnnonnxError
from .._errors import RefusedError, refusal
from ._codec import read_request, write_response
from ._messages import ModelInferRequest, ModelStreamInferResponse, parse
from ._status import text

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .._keys import Caller
    from .._service import Service
    from ._codec import Parsed
    from ._running import Running

MOST_AT_ONCE: Final = 512
"""Requests of one call that run or whose responses wait to be sent. More are not read."""
_FINAL: Final = "triton_final_response"
"""What Triton's clients wait for where they have asked for it: each response here is the last of
its request."""


class InferStream:
    """A call.

    Args:
        service: The server.
        caller: Who calls.
        context: grpc's.
        running: The calls that run.
    """

    def __init__(
        self,
        service: Service,
        caller: Caller,
        context: Any,
        running: Running,
    ) -> None:
        self._service = service
        self._caller = caller
        self._context = context
        self._running = running
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._writing = asyncio.Lock()
        self._last: dict[Hashable, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Answer requests until the client sends no more, or the server goes down.

        Raises:
            RefusedError: The server goes down; what was read has been answered.
        """
        async with asyncio.TaskGroup() as tasks:
            while (data := await self._read()) is not None:
                await self._room.acquire()
                self._begin(tasks, data)
        if self._running.stopping.is_set():
            raise self._running.going_down()

    async def _read(self) -> bytes | None:
        if self._running.stopping.is_set():
            return None
        reading = asyncio.ensure_future(self._context.read())
        stopping = asyncio.ensure_future(self._running.stopping.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return None
            data = reading.result()
            return None if data is EOF else data
        finally:
            reading.cancel()
            stopping.cancel()

    def _begin(self, tasks: asyncio.TaskGroup, data: bytes) -> None:
        message, key = None, None
        parsed: Parsed | RefusedError
        try:
            message = parse(ModelInferRequest, data)
            key = _key(message)
            parsed = read_request(message)
        except RnnonnxError as error:
            parsed = refusal(error)
        identity = "" if message is None else message.id
        before = None if key is None else self._last.get(key)
        task = tasks.create_task(self._answer(parsed, identity, before))
        if key is not None:
            self._last[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))

    def _forget(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if self._last.get(key) is task:
            del self._last[key]

    async def _answer(
        self, parsed: Parsed | RefusedError, identity: str, before: asyncio.Task[None] | None
    ) -> None:
        # NOTE: nothing is awaited before `infer`: tasks start in the order in which they are
        # made, and the requests of a sequence run in the order in which they call it
        response = ModelStreamInferResponse()
        try:
            if isinstance(parsed, RefusedError):
                raise parsed
            self._service.admit(self._caller)
            done = await self._service.infer(self._caller, parsed.request)
            response.infer_response.CopyFrom(write_response(parsed, done))
        except RnnonnxError as error:
            response.error_message = text(refusal(error))
            response.infer_response.id = identity
        response.infer_response.parameters[_FINAL].bool_param = True
        if before is not None:
            await asyncio.wait((before,))
        async with self._writing:
            await self._context.write(response.SerializeToString())
        self._room.release()


def _key(message: Any) -> Hashable:
    """What tells the sequences of a call apart; None where a request names none."""
    parameter = message.parameters.get("sequence_id")
    choice = None if parameter is None else parameter.WhichOneof("parameter_choice")
    if choice is None:
        return None
    return message.model_name, getattr(parameter, choice)
