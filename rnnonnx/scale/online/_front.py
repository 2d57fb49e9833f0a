"""What stands behind HTTP where other processes have the streams: asks them, and asks again.

There is nothing of Ray in it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ...serve._errors import RETRY_SECONDS, Kind, RefusedError
from ...serve._gate import Lanes, waiting_places
from ...serve._inference import InferResponse, check_sizes, named_sequence
from ...serve._keys import KeyRing, read_keys
from ...serve._limits import RateLimit
from ...serve._models import VERSION, found
from ...serve._sequences import not_open, open_already, stream_id
from ...serve._service import IndexEntry, ModelMetadata, tensor_metadata
from ._messages import Ask, Denied, Told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from rnnonnx.runtime import StreamPool

    from ...manifest import Manifest
    from ...serve import Caller, Carry, InferRequest, ModelStats, Settings, Step

EXTENSIONS: Final = (
    "sequence",
    "sequence(string_id)",
    "binary_tensor_data",
    "parameters",
)
PATIENCE: Final = 30.0
"""Seconds in which a request is asked again when the replica that had it is gone."""
PAUSES: Final = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds before it is asked again; the last one is that of all further times."""


Answer = TypeVar("Answer")


class ReplicaGoneError(Exception):
    """A replica has gone before it has answered: whether it took the step is not known."""


class Replicas(Protocol):
    """The replicas of a model.

    Both methods raise ReplicaGoneError, and RefusedError where no more requests are taken for now.
    """

    async def step(self, ask: Ask) -> Told | Denied:
        """Have one of them step a stream; the one that had it last, if that is there."""

    async def step_of(self, stream: str) -> int | Denied | None:
        """Have one of them say where a stream is."""


class Front:
    """A `Backend` for the fronts of `rnnonnx.serve`.

    Every request becomes one for a step that is known, so that asking again cannot step twice:
    the step is the number that the client gives its request, or where the stream is.

    Args:
        settings: The server's.
        models: The manifest and the replicas of each model, by its name.
    """

    def __init__(self, settings: Settings, models: Mapping[str, tuple[Manifest, Replicas]]) -> None:
        self.settings = settings
        self._models = models
        self._keys = KeyRing(None if settings.keys is None else read_keys(settings.keys))
        self._rate = RateLimit(settings.limits.rate)
        self._lanes = Lanes()
        waiting = settings.limits.waiting
        self._places = {name: waiting_places(waiting, name) for name in models}

    @property
    def extensions(self) -> tuple[str, ...]:
        """What it understands beside the protocol itself."""
        return EXTENSIONS

    @property
    def ready(self) -> bool:
        """Whether requests are taken. Ray sends none before they are."""
        return True

    def authenticate(self, authorization: str | None) -> Caller:
        """As `Service.authenticate`."""
        return self._keys.caller(authorization)

    def admit(self, caller: Caller) -> None:
        """As `Service.admit`; each front counts for itself."""
        self._rate.check(caller)

    async def infer(self, caller: Caller, request: InferRequest) -> InferResponse:
        """Run a request. Requests of one sequence run in the order in which they call this.

        Raises:
            RefusedError: It cannot be run; the message says what has become of the state.
        """
        manifest, replicas = self._model(request.model, request.version)
        check_sizes(request, self.settings.limits)
        with self._places[request.model].one():
            if not manifest.states:
                told = await _again(lambda: replicas.step(Ask(request.inputs, request.outputs)))
            else:
                step = named_sequence(request)
                key = f"{request.model}:{stream_id(caller, step.id)}"
                async with self._lanes.turn(key):
                    told = await _stepped(replicas, key, step, request)
        return InferResponse(
            request.model,
            VERSION,
            request.id,
            told.outputs,
            request.sequence,
            told.time_steps,
            told.replayed,
        )

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """As `Service.metadata`."""
        manifest, _ = self._model(model, version)
        return ModelMetadata(
            model,
            VERSION,
            bool(manifest.states),
            tuple(map(tensor_metadata, manifest.inputs)),
            tuple(map(tensor_metadata, manifest.outputs)),
        )

    def is_ready(self, model: str, version: str = "") -> bool:
        """Whether there is such a model.

        Raises:
            RefusedError: There is none.
        """
        self._model(model, version)
        return True

    def statistics(self, model: str = "", version: str = "") -> Mapping[str, ModelStats]:
        """Nothing: no process has seen all requests.

        Raises:
            RefusedError: Always.
        """
        if model:
            self._model(model, version)
        raise RefusedError(
            Kind.NOT_FOUND, "the engine ray has no statistics of models", remedy="/metrics"
        )

    def pools(self) -> Mapping[str, StreamPool]:
        """None: the replicas have them."""
        return {}

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """All models; each is ready."""
        del ready
        return [IndexEntry(name, VERSION, ready=True, reason="") for name in sorted(self._models)]

    async def load(self, caller: Caller, model: str, carry: Carry) -> None:
        """Nothing: the models are those of the start.

        Raises:
            RefusedError: Always.
        """
        del caller, carry
        raise _fixed(model)

    async def unload(self, caller: Caller, model: str, carry: Carry) -> None:
        """Nothing: the models are those of the start.

        Raises:
            RefusedError: Always.
        """
        del caller, carry
        raise _fixed(model)

    def _model(self, name: str, version: str) -> tuple[Manifest, Replicas]:
        return found(self._models.get(name), name, version)


async def _stepped(replicas: Replicas, key: str, step: Step, request: InferRequest) -> Told:
    """One step of a stream, by the turn of its lane."""
    number, token = step.number, None
    if number is None:
        # NOTE: by this token the replicas know the request when it is asked again, by this front
        # or by Ray, which sends a request once more when a replica dies before it says that it
        # has it. A client that sends it again sends another one.
        token = secrets.token_hex(16)
        there = await _again(lambda: replicas.step_of(key))
        if step.start and there is not None:
            raise open_already(step, request.model)
        if not step.start and there is None:
            raise not_open(step, request.model, ", or was idle for too long")
        number = there or 0
    ask = Ask(request.inputs, request.outputs, key, number, token, step.end)
    return await _again(lambda: replicas.step(ask))


async def _again(ask: Callable[[], Awaitable[Answer | Denied]]) -> Answer:
    """Ask until a replica has answered."""
    begin = time.monotonic()
    tries = 0
    while True:
        try:
            told = await ask()
        except ReplicaGoneError as error:
            await _pause(tries, begin, error)
            tries += 1
            continue
        if isinstance(told, Denied):
            raise told.error()
        return told


async def _pause(tries: int, begin: float, error: ReplicaGoneError) -> None:
    if time.monotonic() - begin > PATIENCE:
        raise RefusedError(
            Kind.UNAVAILABLE,
            "no replica answers; whether the step was taken is known when it comes again with its"
            " number (sequence_request)",
            received=str(error)[:200],
            retry_after=RETRY_SECONDS,
        ) from error
    await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])


def _fixed(model: str) -> RefusedError:
    return RefusedError(
        Kind.INVALID,
        f"model {model[:200]!r} is neither loaded nor unloaded: with the engine ray the models are"
        " those of the start",
    )
