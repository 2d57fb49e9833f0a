"""What is answered to each frame."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ...errors import RnnonnxError
from .._errors import Kind, RefusedError, one_line, refusal
from .._live import Phase
from .._tensors import to_raw
from ..http._errors import STATUSES
from ._codec import (
    NOT_TAKEN,
    BrokenError,
    binary_input,
    binary_output,
    read_inputs,
    read_text,
    tensors,
    wanted,
)
from ._documents import Close, Done, Failed, Open, Opened, Outputs, Reset

if TYPE_CHECKING:
    from ...manifest import Manifest
    from .._keys import Caller
    from .._live import LiveStream
    from .._service import Service
    from .._tensors import Array
    from ._documents import Incoming, Outgoing, State

LOGGER: Final = logging.getLogger("rnnonnx.serve")


class Conversation:
    """Frames of one connection, answered one after the other.

    Args:
        service: The server.
        caller: Who is connected.
        stream: The connection's stream.
        manifest: The model's, when the connection began.

    Attributes:
        over: Whether the client has ended it.
    """

    def __init__(
        self, service: Service, caller: Caller, stream: LiveStream, manifest: Manifest
    ) -> None:
        self._service = service
        self._caller = caller
        self._stream = stream
        self._manifest = manifest
        self._begun = False
        self._outputs: tuple[str, ...] | None = None
        self._states = False
        self._input = binary_input(manifest)
        self._output = self._binary_output(None)
        self.over = False

    async def answer(self, message: str | bytes) -> Outgoing | bytes:
        """The answer to a message.

        Raises:
            BrokenError: The connection cannot go on.
        """
        frame: Incoming | None = None
        try:
            self._service.admit(self._caller)
            if isinstance(message, bytes):
                return await self._binary(message)
            frame = read_text(message)
            return await self._answer(frame)
        except RnnonnxError as error:
            return failed(error, getattr(frame, "id", ""), self._stream.phase)

    async def opened(self, frame: Open) -> Outgoing:
        """The answer to the frame of type `open` that came with the key."""
        try:
            return await self._open(frame)
        except RnnonnxError as error:
            return failed(error, "", self._stream.phase)

    async def _answer(self, frame: Incoming) -> Outgoing:
        if isinstance(frame, Open):
            return await self._open(frame)
        if isinstance(frame, Reset):
            await self._stream.reset()
            return Done("reset", frame.id)
        if isinstance(frame, Close):
            await self._stream.end()
            self.over = True
            return Done("closed", frame.id)
        names = wanted(self._manifest, frame.outputs) or self._outputs
        most = self._service.settings.limits.tensor
        return await self._step(read_inputs(frame, most=most), names, frame.id)

    async def _open(self, frame: Open) -> Opened:
        if self._begun:
            raise RefusedError(
                Kind.CONFLICT,
                "the stream of this connection has begun already; no state has changed",
                remedy="a frame of type open comes first, or not at all",
            )
        names = wanted(self._manifest, frame.outputs)
        steps, name = 0, None
        if isinstance(frame.sequence, int | str):
            name = frame.sequence
            steps = await self._stream.name(name, start=frame.start)
        self._begun = True
        self._outputs, self._states = names, frame.states
        self._output = self._binary_output(names)
        return Opened(name, steps, list(self._names(names)), frame.states, self._output)

    async def _binary(self, data: bytes) -> Outgoing | bytes:
        if self._input is None:
            raise BrokenError(NOT_TAKEN, "this model takes no binary frames: see hello.binary")
        feed = {self._input.name: self._input.read(data)}
        if self._output is None:
            return await self._step(feed, self._outputs, "")
        self._begun = True
        done = await self._stream.step(feed, self._outputs, states=False)
        return to_raw(done.outputs[self._output])

    async def _step(
        self, feed: dict[str, Array], names: tuple[str, ...] | None, frame: str
    ) -> Outputs:
        self._begun = True
        done = await self._stream.step(feed, names, states=self._states)
        return Outputs(frame, done.steps, tensors(done.outputs), tensors(done.states))

    def _names(self, names: tuple[str, ...] | None) -> tuple[str, ...]:
        return names or tuple(tensor.name for tensor in self._manifest.outputs)

    def _binary_output(self, names: tuple[str, ...] | None) -> str | None:
        return binary_output(self._manifest, self._names(names), states=self._states)


def failed(error: RnnonnxError, frame: str, phase: Phase | None) -> Failed:
    """An error as a frame.

    Args:
        error: The error.
        frame: What the client calls the frame that failed.
        phase: Where the stream is in its life; None before there is one.
    """
    refused = refusal(error)
    if refused.kind is Kind.INTERNAL:
        LOGGER.error("a frame failed", exc_info=error)
    state: State = "none" if phase is None or phase is Phase.GONE else "unchanged"
    if refused.kind is Kind.INTERNAL:
        state = "unknown"
    return Failed(one_line(refused), STATUSES[refused.kind], state, frame, refused.retry_after)


def status_of(answer: Outgoing | bytes) -> int:
    """The status that HTTP would have for an answer."""
    return answer.status if isinstance(answer, Failed) else 200
