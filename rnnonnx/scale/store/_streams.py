"""`StoredStreams`: streams of a pool, each step of which is in a store before it is answered."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from ...errors import (
    InputError,
    PoolFullError,
    StepConflictError,
    StoreError,
    StreamClosedError,
)
from ._answer import digest, pack, unpack
from ._entry import Entry, Mark, check_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rnnonnx.runtime import Stream, StreamPool

    from ._entry import StateStore

    Array = np.ndarray[Any, np.dtype[Any]]

TRIES: Final = 5
"""How often a step is run before another process that writes the same stream has won."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        outputs: One array an output, with one row.
        step: The stream's next step.
        replayed: Whether the request had been answered before, and this is that answer.
        time_steps: Time steps that the stream has been carried, this request's among them.
    """

    outputs: list[Array]
    step: int
    replayed: bool
    time_steps: int


@dataclass(slots=True)
class _Hot:
    """A stream that the pool has a copy of."""

    stream: Stream
    mark: Mark | None


class StoredStreams:
    """Steps the streams of a pool, and writes each step to a store before it answers.

    A request names the step that it wants to be: how many the stream has been answered before it.
    The same request again, for the same step, gets the same answer and does not step the stream
    again, here or in any other process that shares the store. So a client that has no answer asks
    again, anywhere, until it has one.

    What is in the pool is a copy that saves reading the store; its capacity bounds the copies and
    not the streams. After an error the stream is where the store has it.

    Args:
        pool: The pool, which no one else opens streams of.
        store: Where the states are.
        threads: Most calls of `arun` that are under way at once.
    """

    def __init__(self, pool: StreamPool, store: StateStore, *, threads: int = 64) -> None:
        self._pool = pool
        self._store = store
        self._lock = threading.Lock()
        self._hot: OrderedDict[str, _Hot] = OrderedDict()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._names = [tensor.name for tensor in pool.manifest.outputs]
        self._threads = ThreadPoolExecutor(threads, "rnnonnx-store")

    @property
    def pool(self) -> StreamPool:
        """The pool."""
        return self._pool

    def run(
        self,
        stream_id: str,
        step: int,
        input_feed: Mapping[str, Array],
        *,
        output_names: Sequence[str] | None = None,
        request: str | None = None,
        end: bool = False,
    ) -> Answer:
        """Step a stream, or give the answer again.

        Args:
            stream_id: Which stream. Step 0 begins it.
            step: How many requests it has been answered before this one.
            input_feed: As `Stream.run` takes it.
            output_names: As `Stream.run` takes it.
            request: What tells this request from another for the same step; None is a hash of
                what it asks.
            end: Whether the stream ends with this step. Its answer stays in the store, for the
                same request again, until it expires or step 0 begins the stream anew.

        Raises:
            StepConflictError: The stream is at another step, this step was another request's, or
                the stream is not there and the step is not 0. Its attribute `step` says where it
                is.
            StoreError: The store cannot be reached. Ask again: if the step was written, this
                gives its answer.
            StateFileError: What the store holds is another model's.
            RnnonnxError: As `Stream.run`. The stream has not been stepped.
        """
        check_stream(stream_id)
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise InputError("`step` is no step", expected="0 or more", received=repr(step))
        if request is None:
            request = digest(input_feed, output_names)
        if end:
            request = f"end {request}"  # one that ends the stream is another request
        with self._alone(stream_id):
            for _ in range(TRIES):
                answer = self._try(stream_id, int(step), input_feed, output_names, request, end=end)
                if answer is not None:
                    return answer
        raise StoreError(f"other processes write the stream {stream_id!r} all the time")

    async def arun(
        self,
        stream_id: str,
        step: int,
        input_feed: Mapping[str, Array],
        *,
        output_names: Sequence[str] | None = None,
        request: str | None = None,
        end: bool = False,
    ) -> Answer:
        """As `run`, for asyncio, in a thread. A call that is cancelled may have its effect."""
        work = partial(self.run, output_names=output_names, request=request, end=end)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, stream_id, step, input_feed)

    def step_of(self, stream_id: str) -> int | None:
        """The stream's next step; None where there is no such stream, or it has ended."""
        entry = self._store.get(check_stream(stream_id))
        return None if entry is None or not entry.state else entry.mark.step

    async def astep_of(self, stream_id: str) -> int | None:
        """As `step_of`, for asyncio, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.step_of, stream_id)

    def end(self, stream_id: str) -> bool:
        """Forget a stream, here and in the store; whether there was one."""
        with self._alone(check_stream(stream_id)):
            self._drop(stream_id)
            return self._store.delete(stream_id)

    def close(self) -> None:
        """Wait for calls of `arun`, and let go of the copies. Pool and store stay open."""
        self._threads.shutdown()
        with self._lock:
            hot = list(self._hot)
        for stream_id in hot:
            with self._alone(stream_id):
                self._drop(stream_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _try(
        self,
        stream_id: str,
        step: int,
        feed: Mapping[str, Array],
        output_names: Sequence[str] | None,
        request: str,
        *,
        end: bool,
    ) -> Answer | None:
        """One attempt; None where another process was faster, or the copy has been evicted."""
        hot = self._hot.get(stream_id)
        if hot is None or hot.mark is None or hot.mark.step != step:
            entry = self._store.get(stream_id)
            answer = _answered(stream_id, entry, step, request)
            if answer is not None:
                return answer
            hot = self._load(stream_id, entry)
        # NOTE: from here to the end the copy is ahead of the store. It is kept only if the store
        # has followed; whatever comes between, an error or an interrupt, drops it.
        written = False
        try:
            outputs = hot.stream.run(output_names, feed)
            time_steps = hot.stream.steps
            life = secrets.token_hex(8) if step == 0 or hot.mark is None else hot.mark.life
            mark = Mark(step + 1, life)
            names = list(output_names) if output_names else self._names
            state = b"" if end else hot.stream.snapshot()
            entry = Entry(mark, state, request, pack(names, outputs, time_steps))
            written = self._store.put(stream_id, entry, expected=hot.mark)
            hot.mark = mark
        except StreamClosedError:
            return None
        finally:
            if end or not written:
                self._drop(stream_id)
        if not written:
            return None
        return Answer(outputs, step + 1, replayed=False, time_steps=time_steps)

    def _load(self, stream_id: str, entry: Entry | None) -> _Hot:
        """The copy, as the store has the stream."""
        self._drop(stream_id)
        stream = self._open(stream_id)
        try:
            if entry is not None and entry.state:
                stream.restore(entry.state)
        except BaseException:
            stream.close()
            raise
        hot = _Hot(stream, None if entry is None else entry.mark)
        with self._lock:
            self._hot[stream_id] = hot
        return hot

    def _open(self, stream_id: str) -> Stream:
        """A place in the pool: a free one, or that of the copy that was used longest ago."""
        while True:
            try:
                return self._pool.open(stream_id)
            except PoolFullError:
                with self._lock:
                    idle = next((key for key in self._hot if key not in self._busy), None)
                    if idle is None:
                        raise
                    hot = self._hot.pop(idle)
                hot.stream.close()

    def _drop(self, stream_id: str) -> None:
        with self._lock:
            hot = self._hot.pop(stream_id, None)
        if hot is not None:
            hot.stream.close()

    @contextmanager
    def _alone(self, stream_id: str) -> Iterator[None]:
        """One call a stream at a time: the others of this process wait."""
        with self._lock:
            lock, waiting = self._busy.get(stream_id, (threading.Lock(), 0))
            self._busy[stream_id] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._busy[stream_id]
                if waiting > 1:
                    self._busy[stream_id] = (lock, waiting - 1)
                else:
                    del self._busy[stream_id]
                if stream_id in self._hot:
                    self._hot.move_to_end(stream_id)


def _answered(stream_id: str, entry: Entry | None, step: int, request: str) -> Answer | None:
    """The answer of the last step, if it is this request's; None if this request is the next step.

    Raises:
        StepConflictError: It is neither.
    """
    there = None if entry is None else entry.mark.step
    if entry is not None and step + 1 == there and request == entry.request:
        outputs, time_steps = unpack(entry.answer)
        return Answer(outputs, there, replayed=True, time_steps=time_steps)
    if entry is not None and not entry.state:  # it has ended, and may begin anew
        entry = there = None
    if step == (there or 0):
        return None
    if entry is None or there is None:
        raise StepConflictError(
            f"there is no stream {stream_id!r}: it has ended, expired, or not begun",
            expected="step 0, which begins it",
            received=f"step {step}",
        )
    if step + 1 == there:
        raise StepConflictError(
            f"step {step} of the stream {stream_id!r} was another request",
            step=there,
            expected=f"the same request again, or step {there}",
        )
    raise StepConflictError(
        f"the stream {stream_id!r} is at another step",
        step=there,
        expected=f"step {there}",
        received=f"step {step}",
    )
