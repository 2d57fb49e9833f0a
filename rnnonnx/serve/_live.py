"""A stream that belongs to a connection: it lives as long as that, or has a name and goes on."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ..errors import PoolError, RnnonnxError
from ._errors import Kind, RefusedError, refusal
from ._inference import InferRequest
from ._models import unloaded
from ._sequences import Step, stream_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ._keys import Caller
    from ._models import ModelHost
    from ._sequences import SequenceId
    from ._service import Service
    from ._tensors import Array


_ANEW: Final = "a reset begins it anew"


class Phase(Enum):
    """Where the stream is in its life."""

    FRESH = "fresh"
    """It begins with the next step."""
    OPEN = "open"
    """It is open, as far as is known here."""
    GONE = "gone"
    """It has ended, or was idle too long. Only a reset begins anew: nothing else may be answered
    from a state of zeros by mistake."""


@dataclass(frozen=True, slots=True)
class LiveStep:
    """What a step gave.

    Attributes:
        outputs: One array an output, by name, with one row.
        steps: Time steps that the stream has been carried; None for a model without states.
        states: One array a state after the step, by name, with one row, if they were asked for.
    """

    outputs: Mapping[str, Array]
    steps: int | None
    states: Mapping[str, Array]


class LiveStream:
    """The stream of one connection. One call at a time.

    Args:
        service: The server.
        caller: Who is connected.
        model: The model's name.

    Attributes:
        sequence: What it is called; a secret name of its own for a stream without one.
        named: Whether the client has named it: then it outlives the connection.
        phase: Where it is in its life.

    Raises:
        RefusedError: There is no such model, or it is not loaded.
    """

    def __init__(self, service: Service, caller: Caller, model: str) -> None:
        self._service = service
        self._caller = caller
        self._host, loaded = service.models.loaded(model)
        self._stateful = bool(loaded.manifest.states)
        self.sequence: SequenceId = f"connection-{secrets.token_hex(16)}"
        self.named = False
        self.phase = Phase.FRESH

    @property
    def host(self) -> ModelHost:
        """The model."""
        return self._host

    async def name(self, sequence: SequenceId, *, start: bool) -> int:
        """Be a stream with a name, before the first step.

        Args:
            sequence: What it is called.
            start: Whether it begins with the next step; otherwise it goes on.

        Returns:
            Time steps that it has been carried.

        Raises:
            RefusedError: The name is none, it is open and is to begin, or is not and is to go on.
        """
        step = Step(sequence, start)
        key = stream_id(self._caller, sequence)
        async with self._inside() as host:
            if host.pool is None:
                raise RefusedError(
                    Kind.INVALID, f"model {host.name!r} has no states: there is nothing to name"
                )
            steps = 0
            if not start:
                try:
                    steps = host.sequences.stream(self._caller, sequence).steps
                except PoolError as error:
                    raise refusal(error) from error
            elif key in host.pool:
                raise RefusedError(
                    Kind.CONFLICT,
                    f"sequence {step.id!r} of model {host.name!r} is open already; no state has"
                    " changed",
                    remedy="go on with it: `start` false",
                )
        self.sequence, self.named = sequence, True
        self.phase = Phase.FRESH if start else Phase.OPEN
        return steps

    async def step(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None, *, states: bool
    ) -> LiveStep:
        """Step.

        Args:
            inputs: As `InferRequest` has them.
            outputs: Likewise.
            states: Whether the states after the step are wanted.

        Raises:
            RefusedError: It failed. `phase` says whether the stream is open.
        """
        if self.phase is Phase.GONE:
            raise RefusedError(
                Kind.NOT_FOUND,
                "the stream of this connection is not open any more; no state was made for it",
                remedy=_ANEW,
            )
        step = Step(self.sequence, self.phase is Phase.FRESH) if self._stateful else None
        request = InferRequest(self._host.name, inputs, outputs, step)
        try:
            response = await self._service.infer(self._caller, request)
        except RefusedError as error:
            self._notice(error)
            if not self.named:
                error.message = error.message.replace(f"sequence {self.sequence!r}", "the stream")
            raise
        self.phase = Phase.OPEN
        found = await self._states() if states and self._stateful else {}
        return LiveStep(response.outputs, response.steps, found)

    async def reset(self) -> None:
        """Put the state to its initial value; a stream that has gone begins with the next step.

        Raises:
            RefusedError: The server goes down, or the model is not loaded.
        """
        if self.phase is Phase.OPEN and self._stateful:
            async with self._inside() as host:
                try:
                    stream = host.sequences.stream(self._caller, self.sequence)
                    await asyncio.to_thread(stream.reset)
                except RnnonnxError as error:
                    if refusal(error).kind is not Kind.NOT_FOUND:
                        raise refusal(error) from error
                    self.phase = Phase.FRESH
        elif self.phase is Phase.GONE:
            self.phase = Phase.FRESH

    async def end(self) -> None:
        """End the stream, whether it has a name or not; its row is free at once."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.GONE
            await self._close()

    async def leave(self) -> None:
        """What becomes of the stream when its connection is gone: without a name it ends."""
        if not self.named:
            await self._close()

    async def _close(self) -> None:
        # NOTE: not while the model is replaced: a stream closed in the old pool would live on
        # in the new one
        await self._host.gate.enter()
        try:
            if self._host.pool is not None:
                self._host.sequences.close(self._caller, self.sequence)
            elif self._stateful:
                self._host.sequences.forsake(self._caller, self.sequence)
        finally:
            self._host.gate.leave()

    def _notice(self, error: RefusedError) -> None:
        """See whether the stream has gone: it was idle too long, or somebody has ended it.

        While the model is not loaded the stream waits for it, and has not gone.
        """
        missing = error.kind is Kind.NOT_FOUND and self._host.model is not None
        if missing and self.phase is Phase.OPEN:
            self.phase = Phase.GONE
            error.remedy = _ANEW

    async def _states(self) -> dict[str, Array]:
        try:
            async with self._inside() as host:
                return await self._service.read_states(self._caller, host.name, self.sequence)
        except RnnonnxError as error:
            refused = refusal(error, state="the step was done before")
            self._notice(refused)
            raise refused from error

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[ModelHost]:
        """While neither the model is replaced nor another steps the stream."""
        key = stream_id(self._caller, self.sequence)
        async with self._host.sequences.lanes.turn(key):
            await self._host.gate.enter()
            try:
                if self._host.model is None:
                    raise unloaded(self._host)
                yield self._host
            finally:
                self._host.gate.leave()
