"""The server without any protocol: what HTTP, gRPC and WebSocket fronts stand on.

A front turns what it receives into a `Caller` (`Service.authenticate`), counts it
(`Service.admit`), makes an `InferRequest` and awaits `Service.infer`. It turns the
`InferResponse`, or the `RefusedError` that was raised, into what its protocol has. All of it
runs in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import RnnonnxError, StateFileError
from ._errors import Kind, RefusedError
from ._inference import Inference, InferRequest, InferResponse
from ._keys import KeyRing, read_keys
from ._limits import RateLimit
from ._models import VERSION, Carry, Models, Streams
from ._snapshot import StateFolder
from ._tensors import datatype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx.runtime import StreamPool

    from ..manifest import Tensor
    from ._keys import Caller
    from ._sequences import SequenceId
    from ._settings import Settings
    from ._stats import ModelStats
    from ._tensors import Array

LOGGER: Final = logging.getLogger("rnnonnx.serve")

EXTENSIONS: Final = (
    "sequence",
    "sequence(string_id)",
    "binary_tensor_data",
    "model_repository",
    "parameters",
    "statistics",
)
PLATFORM: Final = "rnnonnx_onnx"


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output as the protocol describes it.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its dtype.
        shape: Its sizes; -1 for any.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model as the protocol describes it.

    Attributes:
        name: Its name.
        version: Its one version.
        stateful: Whether requests need a sequence.
        inputs: What clients give; no states.
        outputs: What they get.
    """

    name: str
    version: str
    stateful: bool
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model in the list of all.

    Attributes:
        name: Its name.
        version: Its one version.
        ready: Whether it is loaded.
        reason: Why not.
    """

    name: str
    version: str
    ready: bool
    reason: str


class Service:
    """The server. Made in the thread of the event loop that runs it.

    Args:
        settings: What it is started with.

    Attributes:
        settings: As given.
        models: The models, loaded and not.

    Raises:
        InputError: The keys cannot be read, or the rate limit is none.
        StateFileError: There is no folder for states.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._keys = KeyRing(None if settings.keys is None else read_keys(settings.keys))
        self._rate = RateLimit(settings.limits.rate)
        self._folder = None if settings.state_folder is None else StateFolder(settings.state_folder)
        self.models = Models(settings, asyncio.get_running_loop())
        self._inference = Inference(self.models, settings.limits)
        self._started = self._stopping = False

    @property
    def extensions(self) -> tuple[str, ...]:
        """What it understands beside the protocol itself."""
        return EXTENSIONS

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the models, with the sequences that were kept.

        Raises:
            RnnonnxError: One cannot be loaded, or does not take its sequences. What was kept
                is still there.
        """
        kept = []
        for host in self.models:
            snapshot = None if self._folder is None else self._folder.read(host.name)
            if snapshot is not None:
                host.parked = (snapshot, None)
                kept.append(host.name)
        for file in self.settings.models:
            try:
                await self.models.named(file.name).load(Carry())
            except StateFileError as error:
                error.remedy = (
                    "serve the file that the sequences belong to, or move them away: "
                    + (str(self._folder.file(file.name)) if self._folder is not None else "")
                )
                raise
        for name in kept:
            # what is parked for a model that is loaded later stays on disk until then
            if self._folder is not None and self.models.named(name).parked is None:
                self._folder.remove(name)
        self._started = True

    async def stop(self) -> None:
        """Take no more requests, keep the open sequences, and close.

        Once they are kept another server may have the folder, and a second call leaves it alone.
        """
        self._stopping = True
        lost = False
        for host in self.models:
            try:
                await host.unload(Carry())
                if self._folder is not None and host.parked is not None:
                    await asyncio.to_thread(self._folder.write, host.name, host.parked[0])
            except RnnonnxError:
                lost = True
                LOGGER.exception("sequences are lost", extra={"model": host.name})
        if self._folder is not None and not lost:
            self._folder.release()
            self._folder = None

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and all models of the start are loaded."""
        hosts = [self.models.named(file.name) for file in self.settings.models]
        running = self._started and not self._stopping
        return running and all(host.model is not None for host in hosts)

    # --- who asks --------------------------------------------------------------------------

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need a key."""
        return self._keys.asked

    def authenticate(self, authorization: str | None) -> Caller:
        """Who sends a request, or opens a connection.

        Args:
            authorization: The header or metadata `authorization`, if there is one.

        Raises:
            RefusedError: The key is missing or unknown.
        """
        return self._keys.caller(authorization)

    def admit(self, caller: Caller) -> None:
        """Count a request, or a message of a connection, against the rate of its key.

        Raises:
            RefusedError: It is one too many.
        """
        self._rate.check(caller)

    # --- requests --------------------------------------------------------------------------

    async def infer(self, caller: Caller, request: InferRequest) -> InferResponse:
        """Run a request. Requests of one sequence run in the order in which they call this.

        Raises:
            RefusedError: As `Inference.run`.
        """
        if self._stopping:
            raise RefusedError(
                Kind.UNAVAILABLE,
                "the server goes down; no state has changed",
                retry_after=self.settings.limits.drain,
            )
        return await self._inference.run(caller, request)

    def close_sequence(self, caller: Caller, model: str, sequence: SequenceId) -> bool:
        """Close a sequence without a step, as when its connection is gone.

        Returns:
            Whether it was open.

        Raises:
            RefusedError: There is no such model.
        """
        host, _ = self.models.loaded(model)
        return host.pool is not None and host.sequences.close(caller, sequence)

    def open_sequences(self, caller: Caller, model: str) -> Sequence[SequenceId]:
        """The sequences that a caller has open.

        Raises:
            RefusedError: There is no such model.
        """
        host, _ = self.models.loaded(model)
        return () if host.pool is None else host.sequences.open(caller)

    async def read_states(
        self, caller: Caller, model: str, sequence: SequenceId
    ) -> dict[str, Array]:
        """The states of a sequence after what it has queued, one row each, by name.

        Raises:
            RefusedError: There is no such model, or the sequence is not open.
        """
        from rnnonnx.runtime import StatefulSession

        host, loaded = self.models.loaded(model)
        if host.pool is None:
            raise RefusedError(Kind.NOT_FOUND, f"model {model!r} has no states")
        stream = host.sequences.stream(caller, sequence)

        def read() -> dict[str, Array]:
            session = StatefulSession(loaded)
            session.restore(stream.snapshot())
            return session.get_states()

        return await asyncio.to_thread(read)

    # --- what there is ---------------------------------------------------------------------

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model takes and gives.

        Raises:
            RefusedError: There is no such model, or it is not loaded.
        """
        host, loaded = self.models.loaded(model, version)
        manifest = loaded.manifest
        return ModelMetadata(
            host.name,
            VERSION,
            host.pool is not None,
            tuple(map(tensor_metadata, manifest.inputs)),
            tuple(map(tensor_metadata, manifest.outputs)),
        )

    def is_ready(self, model: str, version: str = "") -> bool:
        """Whether a model is loaded.

        Raises:
            RefusedError: There is no such model.
        """
        return self.models.named(model, version).model is not None and not self._stopping

    def statistics(self, model: str = "", version: str = "") -> dict[str, ModelStats]:
        """What models have done, by name; of all that are loaded where none is named.

        Raises:
            RefusedError: There is no such model, or it is not loaded.
        """
        if model:
            hosts = [self.models.loaded(model, version)[0]]
        else:
            hosts = [host for host in self.models if host.model is not None]
        return {host.name: host.counts.read() for host in hosts}

    def pools(self) -> dict[str, StreamPool]:
        """The streams of each model that is loaded and has states, by its name."""
        return {host.name: host.pool for host in self.models if host.pool is not None}

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """All models that may be served, or those that are loaded."""
        return [
            IndexEntry(host.name, VERSION, host.model is not None, host.reason)
            for host in self.models
            if host.model is not None or not ready
        ]

    async def load(self, caller: Caller, model: str, carry: Carry) -> None:
        """Load a model, or replace it by what its file holds now; its sequences go on.

        Raises:
            RefusedError: The key may not, there is no such model, or it cannot be loaded.
        """
        _check_admin(caller)
        await self.models.load(model, carry)
        if self._folder is not None:
            self._folder.remove(model)

    async def unload(self, caller: Caller, model: str, carry: Carry) -> None:
        """Unload a model; its sequences wait for it to be loaded again.

        Raises:
            RefusedError: The key may not, or there is no such model.
        """
        _check_admin(caller)
        await self.models.unload(model, carry)
        if self._folder is not None and carry.streams is Streams.END:
            self._folder.remove(model)


def _check_admin(caller: Caller) -> None:
    if not caller.admin:
        raise RefusedError(
            Kind.FORBIDDEN,
            f"the key {caller.name!r} may not load and unload models",
            remedy="a key that was made with --admin",
        )


def tensor_metadata(tensor: Tensor) -> TensorMetadata:
    """An input or output of a manifest as the protocol describes it."""
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape)
    return TensorMetadata(tensor.name, datatype_of(tensor.dtype), shape)
