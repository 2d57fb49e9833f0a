"""One request, whatever protocol it came by: arrays in, a step of a sequence, arrays out.

States are no inputs and no outputs here: the server carries them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RnnonnxError
from ._errors import Kind, RefusedError, refusal
from ._models import VERSION, unloaded
from ._sequences import Step, stream_id
from ._tensors import check_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rnnonnx.runtime import Model

    from ._keys import Caller
    from ._models import ModelHost, Models
    from ._settings import Limits
    from ._tensors import Array


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request.

    Attributes:
        model: The model's name.
        inputs: One array an input, by name, in the manifest's dtypes and shapes; the inputs of a
            model with states have one row.
        outputs: The outputs that are wanted, in this order; None is all.
        sequence: What it says of its sequence; None where it says nothing.
        version: The version that is asked for; empty is any.
        id: What the client calls the request, handed back with the response.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] | None = None
    sequence: Step | None = None
    version: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What came of it.

    Attributes:
        model: The model's name.
        version: Its version.
        id: The request's.
        outputs: One array an output, by name, in the order that was asked for.
        sequence: The request's.
        steps: Time steps that the sequence has been carried, this request's among them; None for
            a model without states.
        replayed: Whether it had been answered before, and this is that answer.
    """

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    sequence: Step | None = None
    steps: int | None = None
    replayed: bool = False


class Inference:
    """Runs requests.

    Args:
        models: The models.
        limits: What a request may ask for.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits

    async def run(self, caller: Caller, request: InferRequest) -> InferResponse:
        """Run a request.

        Cancelled, it is taken back if it is in no batch yet. One that is in a batch has its
        effect; a sequence that it started is closed.

        Raises:
            RefusedError: It cannot be run; the message says what has become of the state.
        """
        host, _ = self._models.loaded(request.model, request.version)
        started = time.perf_counter_ns()
        failed = True
        try:
            check_sizes(request, self._limits)
            with host.places.one():
                response = await self._in_turn(host, caller, request)
            failed = False
        finally:
            host.counts.request(time.perf_counter_ns() - started, failed=failed)
        return response

    async def _in_turn(
        self, host: ModelHost, caller: Caller, request: InferRequest
    ) -> InferResponse:
        if request.sequence is None:
            return await self._inside(host, caller, request)
        async with host.sequences.lanes.turn(stream_id(caller, request.sequence.id)):
            return await self._inside(host, caller, request)

    async def _inside(
        self, host: ModelHost, caller: Caller, request: InferRequest
    ) -> InferResponse:
        await host.gate.enter()
        try:
            model = host.model
            if model is None:  # unloaded while this request waited
                raise unloaded(host)
            if host.pool is None:
                return await self._stateless(host, model, request)
            return await self._stateful(host, caller, model, request)
        finally:
            host.gate.leave()

    async def _stateful(
        self, host: ModelHost, caller: Caller, model: Model, request: InferRequest
    ) -> InferResponse:
        step = named_sequence(request)
        if step.number is not None:
            raise RefusedError(
                Kind.INVALID,
                "this server has no store, and would not know a request that comes again; no state"
                " has changed",
                remedy="leave sequence_request out, or serve with --engine ray",
            )
        done = await host.sequences.step(caller, step, request.outputs, request.inputs)
        return _response(model, request, done.outputs, done.steps)

    async def _stateless(
        self, host: ModelHost, model: Model, request: InferRequest
    ) -> InferResponse:
        started = time.perf_counter_ns()
        try:
            outputs, _ = await asyncio.to_thread(model.step, request.inputs, None, request.outputs)
        except RnnonnxError as error:
            raise refusal(error) from error
        host.counts.batch(1, time.perf_counter_ns() - started)
        return _response(model, request, outputs, None)


def named_sequence(request: InferRequest) -> Step:
    """What a request says of its sequence.

    Raises:
        RefusedError: It names none.
    """
    if request.sequence is None:
        raise RefusedError(
            Kind.INVALID,
            f"model {request.model!r} carries state, and the request names no sequence; no state"
            " has changed",
            expected="sequence_id: a whole number above 0, or a text",
            remedy="the parameters sequence_id and sequence_start begin a sequence",
        )
    return request.sequence


def check_sizes(request: InferRequest, limits: Limits) -> None:
    """Check that no input is too large.

    Raises:
        RefusedError: One is.
    """
    for name, array in request.inputs.items():
        check_size(name, array.nbytes, limits.tensor)


def _response(
    model: Model, request: InferRequest, outputs: list[Array], steps: int | None
) -> InferResponse:
    names = model.output_names(request.outputs)
    return InferResponse(
        request.model,
        VERSION,
        request.id,
        dict(zip(names, outputs, strict=True)),
        request.sequence,
        steps,
    )
