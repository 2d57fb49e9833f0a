"""The handle of one stream of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from .._feed import named_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._state import Array
    from ._desk import Desk
    from ._pool import StreamPool
    from ._replies import PoolFuture
    from ._scheduler import Seat


class Stream:
    """One stream of a pool, stepped like a `StatefulSession` of batch size 1.

    Arrays have the batch axis, `[1, time, ...]`. Requests of one stream take effect in the order in
    which they were made, whichever method made them. Any thread may use a stream.

    Handles come from `StreamPool.open`, `stream` and `restore`; a handle that is forgotten
    leaves its stream open.
    """

    __slots__ = ("_desk", "_pool", "_seat")

    def __init__(self, pool: StreamPool, desk: Desk, seat: Seat) -> None:
        self._pool = pool
        self._desk = desk
        self._seat = seat

    def __repr__(self) -> str:
        return f"<Stream {self.id!r}: {self._seat.closed or 'open'}>"

    @property
    def id(self) -> str:
        """What it is called."""
        return self._seat.id

    @property
    def pool(self) -> StreamPool:
        """The pool that it belongs to."""
        return self._pool

    @property
    def closed(self) -> bool:
        """Whether it is closed, or has been evicted."""
        return self._seat.closed is not None

    @property
    def steps(self) -> int:
        """Time steps carried since it was opened, reset, or restored (then the snapshot's).

        Raises:
            PoolError: It is closed.
        """
        return self._desk.steps(self._seat)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        *,
        wait: float = 0.0,
    ) -> list[Array]:
        """Step, as `StatefulSession.run` does. The calling thread waits for its batch.

        Args:
            output_names: Outputs to give, in this order; None is all, in Keras's order.
            input_feed: One array an input, by name, each with one row. A chunk may have any
                number of time steps; one of none gives outputs of none.
            wait: How long to wait for a place in a full queue, in seconds; `math.inf` is as
                long as it takes.

        Returns:
            One array an output, with one row.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            RunError: ONNX Runtime failed for this stream.
            QueueFullError: The queue is full.
            StreamClosedError: The stream is closed or evicted, or is before the request runs.
            PoolClosedError: So is the pool.
        """
        return self._desk.deputy.do(self._desk.run, (self._seat,), output_names, input_feed, wait)

    def __call__(self, x: Array | Sequence[Array] | Mapping[str, Array]) -> Array | list[Array]:
        """Step, as a Keras model is called.

        Args:
            x: The input; for several, a list in Keras's order or a dict by name.

        Returns:
            The output; a list in Keras's order where the model has several.

        Raises:
            RnnonnxError: As `run`.
        """
        feed = named_inputs(self._desk.manifest, x)
        outputs = self._desk.deputy.do(self._desk.run, (self._seat,), None, feed, 0.0)
        return outputs[0] if len(outputs) == 1 else outputs

    def submit(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        *,
        wait: float = 0.0,
    ) -> PoolFuture:
        """As `run`, but does not wait for the result.

        `cancel()` of the Future takes the request back as long as it is in no batch.

        Args:
            output_names: As in `run`.
            input_feed: As in `run`. Copied.
            wait: As in `run`; it is the queue that is waited for here.

        Returns:
            A `concurrent.futures.Future` of what `run` would return or raise. Its callbacks
            run in the pool's threads: they should return soon, and not wait for other requests.

        Raises:
            RnnonnxError: As `run`, except RunError.
        """
        return self._desk.deputy.do(self._desk.submit, self._seat, output_names, input_feed, wait)

    async def arun(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        *,
        wait: float = 0.0,
    ) -> list[Array]:
        """As `run`, for asyncio: the loop goes on meanwhile.

        Cancelled while it waits, the request is taken back, and the state is as it was. A
        request that is in a batch already has its effect, and its result is dropped.
        """
        return await self._desk.arun(self._seat, output_names, input_feed, wait)

    def reset(self) -> None:
        """Put the state to its initial value, after the requests that are queued.

        Raises:
            PoolError: The stream or the pool is closed.
        """
        self._desk.deputy.do(self._desk.reset, self._seat)

    def snapshot(self) -> bytes:
        """The state and step count after the requests that are queued, as bytes.

        They are those of a `StatefulSession` of batch size 1, which can restore them.

        Raises:
            PoolError: The stream or the pool is closed.
        """
        return self._desk.deputy.do(self._desk.snapshot, self._seat)

    def restore(
        self,
        snapshot: bytes | bytearray | memoryview,
        *,
        map_states: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take over a state and its step count, after the requests that are queued.

        Args:
            snapshot: What `snapshot` gave, or that of a session of batch size 1.
            map_states: As in `StatefulSession.restore`: for a snapshot of another model.

        Raises:
            StateFileError: It is damaged, of another model, or of another batch size. Nothing
                has changed then.
            PoolError: The stream or the pool is closed.
        """
        self._desk.deputy.do(self._desk.restore, self._seat, snapshot, map_states)

    def close(self) -> None:
        """Close the stream and give its place free. Closing again does nothing.

        What it has queued fails with StreamClosedError; what is in a batch has its effect. Does not
        wait.
        """
        self._desk.deputy.do(self._desk.close, self._seat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def seats_of(pool: StreamPool, streams: Sequence[Any]) -> list[Seat | None]:
    """The places of streams in their pool; None for what is no handle of this pool's."""
    return [
        item._seat if type(item) is Stream and item._pool is pool else None  # noqa: SLF001
        for item in streams
    ]
