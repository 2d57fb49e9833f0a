"""A replica: a pool of its own, over a store that it shares with the others.

There is nothing of Ray in it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ...errors import RnnonnxError, StepConflictError, StoreError
from ...serve._errors import Kind, RefusedError
from ..store import StoredStreams
from ._messages import Denied, Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rnnonnx.runtime._providers import Providers

    from ...serve import Pooling
    from ...serve._tensors import Array
    from ..store import StateStore
    from ._messages import Ask

THREADS: Final = 64
"""Steps of a replica that run or wait for the store at once: also the most of one batch."""


class Replica:
    """Answers what fronts ask, until it is killed.

    Args:
        path: The model's file.
        providers: As in `Model.load`.
        pooling: How its streams are batched; `capacity` is how many copies it keeps.
        open_store: Opens the store.

    Raises:
        RnnonnxError: The model cannot be loaded or pooled, or the store not be opened.
    """

    def __init__(
        self,
        path: Path,
        providers: Providers,
        pooling: Pooling,
        open_store: Callable[[], StateStore],
    ) -> None:
        from rnnonnx.runtime import Model, StreamPool

        self._model = Model.load(path, providers=providers)
        self._streams: StoredStreams | None = None
        if self._model.manifest.states:
            pool = StreamPool(
                self._model,
                # NOTE: a step in progress keeps its place, and a place must be free for the next
                capacity=max(pooling.capacity, THREADS),
                max_batch=pooling.max_batch,
                max_delay=pooling.max_delay,
                min_batch=pooling.min_batch,
            )
            self._streams = StoredStreams(pool, open_store(), threads=THREADS)

    async def step(self, ask: Ask) -> Told | Denied:
        """Step a stream, or give its last answer again."""
        try:
            if self._streams is None:
                outputs, _ = await asyncio.to_thread(
                    self._model.step, ask.inputs, None, ask.outputs
                )
                return Told(self._named(ask, outputs), None, replayed=False)
            answer = await self._streams.arun(
                ask.stream,
                ask.step,
                ask.inputs,
                output_names=ask.outputs,
                request=ask.request,
                end=ask.end,
            )
        except StepConflictError as error:
            return _conflict(ask, error)
        except RnnonnxError as error:
            return _denied(error)
        named = self._named(ask, answer.outputs)
        return Told(named, answer.time_steps, answer.replayed)

    async def step_of(self, stream: str) -> int | Denied | None:
        """How many requests a stream has been stepped by; None where it is not open."""
        try:
            return None if self._streams is None else await self._streams.astep_of(stream)
        except RnnonnxError as error:
            return _denied(error)

    def _named(self, ask: Ask, outputs: list[Array]) -> dict[str, Array]:
        return dict(zip(self._model.output_names(ask.outputs), outputs, strict=True))


def _conflict(ask: Ask, error: StepConflictError) -> Denied:
    if error.step is None:
        return Denied.of(
            RefusedError(
                Kind.NOT_FOUND,
                "the sequence is not open: it has not been started, has ended, or was idle for too"
                " long; no state was made for it",
                remedy="begin it with sequence_start",
            )
        )
    return Denied.of(
        RefusedError(
            Kind.CONFLICT,
            "the request is neither the next one of the sequence nor its last one again; the"
            " sequence is as it was",
            expected=f"sequence_request {error.step}",
            received=ask.step,
            remedy="one request of a sequence after the other, by one client",
        )
    )


def _denied(error: RnnonnxError) -> Denied:
    if isinstance(error, StoreError):
        return Denied.of(error, state="whether the step was taken is known when it comes again")
    return Denied.of(error, state="the sequence is as it was before the request")
