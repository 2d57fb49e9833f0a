"""StreamPool: many streams of one model, stepped in batches."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from rnnonnx.errors import InputError, PoolError

from .._feed import named_inputs
from .._model import Model
from .._state_blob import dump_streams, load_streams
from ._admission import checked_wait
from ._arguments import Limits, check_calls
from ._batch import Runner
from ._deputy import Deputy
from ._desk import Desk
from ._engine import Engine
from ._fitness import check_mask, check_model
from ._intake import Intake
from ._joined import joined
from ._registry import Registry
from ._reports import Reports
from ._scheduler import Scheduler, Seat
from ._slab import Slab
from ._stream import Stream, seats_of
from ._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rnnonnx.manifest import Manifest

    from .._onnxruntime import Source
    from .._state import Array
    from .._stream_states import StreamStates
    from ._replies import PoolFuture
    from ._stats import Meter, PoolStats


class StreamPool:
    """Holds the states of many streams and steps whichever are ready as one batch.

    Streams are opened by an id, and each is then stepped like a `StatefulSession` of batch size
    1, from any thread or asyncio loop. A stream is never in two batches at once, its requests
    take effect in their order, and the stream that has waited longest is in the next batch.
    After an error a stream's state is as it was, and the other streams of its batch go on.

    A pool can be closed with `with`. It must not be used in a process that is forked from
    the one that made it, which raises PoolClosedError; make it after the fork.

    Args:
        model: Path to an ONNX file, its bytes, or a `Model`, which other pools and sessions
            can share.
        capacity: Most streams that are open at once.
        max_batch: Most streams that are stepped together; None is 256, or what the file fixes.
        max_delay: How long the longest waiting request waits for others to join it, in
            seconds. With 0 a batch is what is ready when the one before is done.
        max_queue: Most requests that wait at once; None is four for each stream.
        min_batch: Fewest rows that the model is run with; a smaller batch is filled up by
            repeating a row. With 2 a SimpleRNN gives the same bits in every batch.
        mask_input: An input, bool `[batch, time]`, with which the model skips steps. With it
            chunks of different lengths share a batch, padded at their ends. Callers may leave
            the input out. Tried with random data before it is used.
        idle_timeout: Seconds after which a stream without requests is closed; None is never.
        on_evict: Called then with the stream's id and its snapshot, in the pool's thread or in
            one that opens a stream. Requests that come meanwhile wait. If it raises, that is
            logged, and the stream stays open for another `idle_timeout`.
        meter: Where measurements go as they are made; `stats` has them in any case.

    Raises:
        PoolError: An argument is out of range, or the model cannot be pooled: it has states
            or outputs without a batch axis.
        RnnonnxError: As `Model.load`.
    """

    def __init__(
        self,
        model: Source | Model,
        *,
        capacity: int = 1024,
        max_batch: int | None = None,
        max_delay: float = 0.0,
        max_queue: int | None = None,
        min_batch: int = 1,
        mask_input: str | None = None,
        idle_timeout: float | None = None,
        on_evict: Callable[[str, bytes], object] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._model = model = model if isinstance(model, Model) else Model.load(model)
        check_model(model)
        check_calls(on_evict, meter)
        limits = Limits.checked(
            model, capacity, max_batch, max_delay, max_queue, min_batch, idle_timeout
        )
        if mask_input is not None:
            check_mask(model, mask_input, limits.min_batch)
        self._max_rows = min(limits.max_batch, limits.max_queue)
        self._evicts = limits.idle_timeout is not None
        reports = Reports(meter)
        slab = Slab(model.manifest.states, limits.capacity)
        runner = Runner(model, slab, limits.min_batch)
        self._engine = engine = Engine(Scheduler(limits.max_batch), runner, reports, limits)
        self._registry = Registry(engine, slab, model.manifest, reports, limits, on_evict)
        self._deputy = deputy = Deputy()
        self._worker = Worker(engine, self._registry, deputy)
        intake = Intake(model, mask_input)
        self._desk = Desk(model, intake, engine, self._worker, deputy, self._registry, slab)
        # the thread holds what it needs, not the pool: a pool that is forgotten ends it
        weakref.finalize(self, self._worker.stop).atexit = False

    @property
    def model(self) -> Model:
        """The model, to share."""
        return self._model

    @property
    def manifest(self) -> Manifest:
        """What the file says of its inputs, outputs and states."""
        return self._model.manifest

    @property
    def ids(self) -> tuple[str, ...]:
        """The open streams."""
        return self._registry.ids()

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._registry)

    def __contains__(self, stream_id: object) -> bool:
        return stream_id in self._registry.ids()

    def open(self, stream_id: str, *, wait: float = 0.0) -> Stream:
        """Open a stream, in its initial state.

        Args:
            stream_id: What it is called: any text that no open stream has.
            wait: How long to wait for a place in a full pool, in seconds; `math.inf` is as
                long as it takes.

        Raises:
            PoolFullError: As many streams are open as there is room for, and none is idle.
            PoolClosedError: The pool is closed.
            PoolError: The id is taken, or no text.
        """
        return self._deputy.do(self._open, stream_id, checked_wait(wait))

    async def aopen(self, stream_id: str, *, wait: float = 0.0) -> Stream:
        """As `open`, for asyncio: the loop goes on meanwhile."""
        seconds = checked_wait(wait)
        if self._evicts:
            self._deputy.post(self._worker.ensure)
        return self._handle(await self._registry.open_in_loop(stream_id, seconds, self._deputy))

    def stream(self, stream_id: str) -> Stream:
        """A handle of a stream that is open.

        Raises:
            StreamClosedError: There is none of this id.
            PoolClosedError: The pool is closed.
        """
        return self._handle(self._registry.seats([stream_id])[0])

    def submit(
        self,
        stream_id: str,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        *,
        wait: float = 0.0,
    ) -> PoolFuture:
        """`Stream.submit` of the stream of this id."""
        return self.stream(stream_id).submit(output_names, input_feed, wait=wait)

    def run_many(
        self,
        streams: Iterable[Stream | str],
        x: Array | Sequence[Array] | Mapping[str, Array],
        *,
        output_names: Sequence[str] | None = None,
        wait: float = 0.0,
    ) -> Array | list[Array]:
        """Step many streams at once, each a row of one array.

        It takes its turn like other requests, after those that its streams have queued. More
        streams than `max_batch` are stepped in several batches, one after the other.

        Args:
            streams: Handles or ids, each once.
            x: The input `[streams, time, ...]`; for several, a list in Keras's order or a
                dict by name.
            output_names: Outputs to give, in this order; None is all, in Keras's order.
            wait: As in `Stream.run`.

        Returns:
            The output, a row for each stream in their order; a list where there are several.

        Raises:
            InputError: A name, dtype, rank or size is wrong, or a stream is named twice. No
                stream has been stepped then.
            StreamClosedError: A stream is not open. None has been stepped.
            QueueFullError: The queue is full. None has been stepped.
            PartialRunError: Some streams failed, or could not be stepped after others had
                been; the error has those others' outputs.
        """
        return self._deputy.do(self._run_many, streams, x, output_names, checked_wait(wait))

    def _run_many(
        self,
        streams: Iterable[Stream | str],
        x: Array | Sequence[Array] | Mapping[str, Array],
        output_names: Sequence[str] | None,
        wait: float,
    ) -> Array | list[Array]:
        seats = self._seats(streams)
        feed = named_inputs(self.manifest, x)
        requests = self._desk.requests(seats, output_names, feed, self._max_rows)
        for done, request in enumerate(requests):
            try:
                self._desk.run_request(request, wait)
            except PoolError as error:
                if not done:
                    raise
                for rest in requests[done:]:
                    rest.error = error
                break
        outputs = joined(self.manifest, requests)
        return outputs[0] if len(outputs) == 1 else outputs

    def snapshot(self) -> bytes:
        """The states, ids and step counts of all open streams, as bytes.

        Taken between two batches; requests that are queued are not in it.

        Raises:
            PoolClosedError: The pool is closed.
        """
        return dump_streams(self._deputy.do(self._export), self.manifest)

    def _export(self) -> StreamStates:
        with self._engine.exclusive():
            return self._registry.export()

    def restore(
        self,
        snapshot: bytes | bytearray | memoryview,
        *,
        map_states: Mapping[str, str | None] | None = None,
    ) -> list[Stream]:
        """Open the streams of a snapshot, as they were, beside those that are open.

        Args:
            snapshot: What `snapshot` gave, of this pool or another.
            map_states: As in `StatefulSession.restore`: for a snapshot of another model.

        Returns:
            Their handles, in the snapshot's order.

        Raises:
            StateFileError: The snapshot is damaged or of another model.
            PoolFullError: There is not room for all.
            PoolError: One of the ids is open already, or the pool is closed. In each case
                nothing has changed.
        """
        streams = load_streams(snapshot, self.manifest, map_states=map_states)
        return self._deputy.do(self._restore, streams)

    def _restore(self, streams: StreamStates) -> list[Stream]:
        if self._evicts:
            self._worker.ensure()
        return [self._handle(seat) for seat in self._registry.restore(streams)]

    def stats(self) -> PoolStats:
        """What there is now, and what has been counted."""
        return self._deputy.do(self._stats)

    def _stats(self) -> PoolStats:
        with self._engine.lock:
            return self._engine.counts.read(
                streams=len(self._registry),
                capacity=self._registry.places.limit,
                queued=self._engine.queued,
            )

    def close(self, *, drain: bool = True) -> None:
        """Close the pool, and wait until nothing of it runs. Closing again does nothing.

        States that are to be kept are to be taken by `snapshot` before.

        Args:
            drain: Whether what is queued is run first; otherwise it fails with
                PoolClosedError. What is in a batch has its effect in any case.

        Raises:
            PoolError: `on_evict` calls it, and would wait for its own end.
        """
        self._deputy.do(self._close, drain=drain)
        self._worker.join()

    def _close(self, *, drain: bool) -> None:
        if self._engine.forgotten:  # whatever waits, waits in another process
            return
        self._engine.shut("is closed")
        if not drain:
            self._registry.fail_all()
        self._engine.drain()
        self._registry.close_all()
        self._worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        # after an error nobody may be left to wait for
        self.close(drain=kind is None)

    def _open(self, stream_id: str, wait: float) -> Stream:
        if self._evicts:
            self._worker.ensure()
        return self._handle(self._registry.open(stream_id, wait))

    def _handle(self, seat: Seat) -> Stream:
        return Stream(self, self._desk, seat)

    def _seats(self, streams: Iterable[Stream | str]) -> list[Seat]:
        if isinstance(streams, str):
            raise InputError("`streams` is no list of streams", received=repr(streams))
        try:
            streams = list(streams)
        except TypeError as error:
            raise InputError("`streams` is no list of streams", received=repr(streams)) from error
        seats: list[Any] = seats_of(self, streams)
        if None in seats:
            others = [place for place, seat in enumerate(seats) if seat is None]
            ids: list[str] = []
            for place in others:
                other = streams[place]
                if isinstance(other, Stream):
                    raise InputError(f"the stream {other.id!r} is of another pool")
                ids.append(other)
            for place, seat in zip(others, self._registry.seats(ids), strict=True):
                seats[place] = seat
        if not seats or len(set(seats)) != len(seats):
            raise InputError(
                "`streams` names a stream twice" if seats else "`streams` names no stream",
                expected="1 stream or more, each once",
            )
        return seats
