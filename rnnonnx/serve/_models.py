"""The models of a server by name: loaded, unloaded, replaced, with their open sequences kept."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from ..errors import PoolError, RnnonnxError, StateError
from ._errors import Kind, RefusedError, refusal
from ._gate import Gate, waiting_places
from ._sequences import Sequences, read_id
from ._settings import MODEL_NAME, ModelFile
from ._stats import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rnnonnx.runtime import Model, StreamPool

    from ..manifest import Manifest
    from ._settings import Settings

Found = TypeVar("Found")

LOGGER: Final = logging.getLogger("rnnonnx.serve")
VERSION: Final = "1"
"""The one version that each model has: what is replaced is not kept beside what replaces it."""


class Streams(Enum):
    """What becomes of the open sequences when their model is replaced or unloaded."""

    KEEP = "keep"
    """They go on. Only a file with the same weights takes them."""
    MAP = "map"
    """They go on in a model of other weights, whose states take the values of the old ones."""
    END = "end"
    """They end."""


@dataclass(frozen=True, slots=True)
class Carry:
    """How open sequences are carried over.

    Attributes:
        streams: What becomes of them.
        map_states: For `MAP`: the new states by the old ones, as in `StreamPool.restore`; None
            takes each state under its own name.
    """

    streams: Streams = Streams.KEEP
    map_states: Mapping[str, str | None] | None = None


class ModelHost:
    """One model under its name, loaded or not.

    Args:
        file: The name and the file.
        settings: The server's.
        loop: The event loop.

    Attributes:
        file: As given.
        model: The model; None while it is not loaded.
        pool: Its streams; None while it is not loaded, or has no states.
        reason: Why it is not loaded.
        sequences: What clients call its streams.
        gate: Who uses it; inside it `model` and `pool` stay what they are.
        places: Requests that wait or run.
        counts: What it has done.
        parked: The sequences of a model that is not loaded, and the manifest of what they ran
            in, where that is known; None is no sequence.
    """

    def __init__(
        self, file: ModelFile, settings: Settings, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.file = file
        self.model: Model | None = None
        self.pool: StreamPool | None = None
        self.reason = "not loaded"
        self.sequences = Sequences(
            loop,
            file.name,
            most=settings.limits.sequences,
            idle_timeout=settings.pooling.idle_timeout,
        )
        self.gate = Gate()
        self.places = waiting_places(settings.limits.waiting, file.name)
        self.counts = Counts()
        self.parked: tuple[bytes, Manifest | None] | None = None
        self._settings = settings
        self._changes = asyncio.Lock()

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.file.name

    async def load(self, carry: Carry) -> None:
        """Load the file, in place of what is loaded. Requests wait only while sequences move.

        Raises:
            RnnonnxError: It cannot be loaded, or does not take the open sequences; then what
                was loaded goes on.
        """
        async with self._changes:
            model, pool = await asyncio.to_thread(self._open)
            try:
                async with self.gate.alone():
                    before = self.pool
                    saved = await asyncio.to_thread(self._saved)
                    if saved is not None and carry.streams is not Streams.END:
                        await asyncio.to_thread(self._restore, pool, saved, carry)
                    self._take(model, pool)
                    self.parked = None
            except BaseException:
                await _closed(pool)
                raise
            await _closed(before)
        LOGGER.info("model loaded", extra={"model": self.name, "sequences": len(pool or ())})

    async def unload(self, carry: Carry) -> None:
        """Unload it. Its open sequences wait for it to be loaded again, or end."""
        async with self._changes:
            if self.model is None:
                self.parked = None if carry.streams is Streams.END else self.parked
                return
            async with self.gate.alone():
                before = self.pool
                saved = await asyncio.to_thread(self._saved)
                self.parked = None if carry.streams is Streams.END else saved
                self._take(None, None)
                self.reason = "unloaded"
            await _closed(before)
            LOGGER.info("model unloaded", extra={"model": self.name})

    def _open(self) -> tuple[Model, StreamPool | None]:
        from rnnonnx.runtime import Model, StreamPool

        pooling = self._settings.pooling
        model = Model.load(self.file.path, providers=self._settings.providers)
        if not model.manifest.states:
            return model, None
        return model, StreamPool(
            model,
            capacity=pooling.capacity,
            max_batch=pooling.max_batch,
            max_delay=pooling.max_delay,
            min_batch=pooling.min_batch,
            idle_timeout=pooling.idle_timeout,
            on_evict=self.sequences.evicted,
            meter=self.counts,
        )

    def _saved(self) -> tuple[bytes, Manifest | None] | None:
        if self.pool is None:
            return self.parked
        return (self.pool.snapshot(), self.pool.manifest) if len(self.pool) else None

    def _restore(
        self, pool: StreamPool | None, saved: tuple[bytes, Manifest | None], carry: Carry
    ) -> None:
        snapshot, before = saved
        if pool is None:
            raise StateError(
                f"model {self.name!r} has no states in the new file, and sequences are open",
                remedy='the parameter "streams": "end" ends them',
            )
        names = None
        if carry.streams is Streams.MAP:
            states = (before or pool.manifest).states
            names = carry.map_states or {state.name: state.name for state in states}
        for stream in pool.restore(snapshot, map_states=names):
            read_id(stream.id)

    def _take(self, model: Model | None, pool: StreamPool | None) -> None:
        self.model, self.pool = model, pool
        self.reason = ""
        if pool is not None:
            self.sequences.adopt(pool)


class Models:
    """The models that a server may serve.

    Args:
        settings: The server's.
        loop: The event loop.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        self._hosts = {file.name: ModelHost(file, settings, loop) for file in settings.models}

    def __iter__(self) -> Iterator[ModelHost]:
        """All that there are, loaded or not, in the order of their names."""
        for name, path in self._in_repository().items():
            self._found(name, path)
        return iter([self._hosts[name] for name in sorted(self._hosts)])

    def named(self, name: str, version: str = "") -> ModelHost:
        """A model that may be served, loaded or not.

        Args:
            name: What clients call it. Compared with the names that there are; no path is
                made of it.
            version: Empty, or the one that there is.

        Raises:
            RefusedError: There is none.
        """
        host = self._hosts.get(name)
        path = self._in_repository().get(name) if host is None else None
        if path is not None:
            host = self._found(name, path)
        return found(host, name, version)

    def loaded(self, name: str, version: str = "") -> tuple[ModelHost, Model]:
        """A model that is loaded.

        Raises:
            RefusedError: There is none, or it is not loaded.
        """
        host = self.named(name, version)
        if host.model is None:
            raise unloaded(host)
        return host, host.model

    async def load(self, name: str, carry: Carry | None = None) -> None:
        """Load a model, or replace it by what its file holds now.

        Raises:
            RefusedError: There is none, it cannot be loaded, or does not take the open sequences.
        """
        host = self.named(name)
        try:
            await host.load(carry or Carry())
        except (StateError, PoolError) as error:
            before = "what was loaded goes on" if host.model else "it is not loaded"
            raise refusal(error, state=f"{before}, and no sequence has changed") from error
        except RnnonnxError as error:
            if host.model is None:
                host.reason = error.message
            raise refusal(error) from error

    async def unload(self, name: str, carry: Carry | None = None) -> None:
        """Unload a model.

        Raises:
            RefusedError: There is none of this name.
        """
        await self.named(name).unload(carry or Carry())

    def _found(self, name: str, path: Path) -> ModelHost:
        if name not in self._hosts:
            self._hosts[name] = ModelHost(ModelFile(name, path), self._settings, self._loop)
        return self._hosts[name]

    def _in_repository(self) -> dict[str, Path]:
        """Files of the repository by their names; a file whose name is none of a model's is not."""
        if self._settings.repository is None:
            return {}
        paths = self._settings.repository.glob("*.onnx")
        return {path.stem: path for path in paths if MODEL_NAME.fullmatch(path.stem)}


def found(model: Found | None, name: str, version: str) -> Found:
    """What was found under a name, as the version that is asked for.

    Raises:
        RefusedError: Nothing was, or there is no such version.
    """
    if model is None:
        raise RefusedError(
            Kind.NOT_FOUND,
            f"there is no model {name[:200]!r}",
            remedy="/v2/repository/index lists the models",
        )
    if version not in ("", VERSION):
        raise RefusedError(
            Kind.NOT_FOUND,
            f"model {name!r} has no version {version[:40]!r}",
            expected=VERSION,
        )
    return model


def unloaded(host: ModelHost) -> RefusedError:
    """The error for a model that is not loaded."""
    return RefusedError(
        Kind.NOT_FOUND,
        f"model {host.name!r} is not loaded: {host.reason}; no state has changed",
        remedy=f"/v2/repository/models/{host.name}/load loads it",
    )


async def _closed(pool: StreamPool | None) -> None:
    if pool is not None:
        await asyncio.to_thread(pool.close)
