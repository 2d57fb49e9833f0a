"""Where requests are made: what is fed is checked, a place taken, the request queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import PoolError, QueueFullError, RnnonnxError, StateFileError

from .._state_blob import dump_state, load_state
from ._admission import Door, checked_wait
from ._gate import TaskWaiter
from ._replies import FutureReply, PoolFuture, TaskReply, deliver
from ._scheduler import NEW, WAITING, WITHDRAWN, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.manifest import Manifest

    from .._model import Model
    from .._state import Array
    from ._deputy import Deputy
    from ._engine import Engine
    from ._intake import Intake
    from ._registry import Registry
    from ._scheduler import Seat
    from ._slab import Slab
    from ._worker import Worker


class Desk:
    """The requests of one pool.

    Args:
        model: Its model.
        intake: What checks inputs.
        engine: What runs requests.
        worker: The thread that does so where no caller waits in one.
        deputy: The thread that calls for the main thread; as `Stream` and `StreamPool` do, except
            for what a task calls.
        registry: The open streams.
        slab: Their states.

    Attributes:
        manifest: The model's.
        deputy: As given.
    """

    def __init__(
        self,
        model: Model,
        intake: Intake,
        engine: Engine,
        worker: Worker,
        deputy: Deputy,
        registry: Registry,
        slab: Slab,
    ) -> None:
        self.manifest: Manifest = model.manifest
        self._intake = intake
        self._engine = engine
        self._worker = worker
        self.deputy = deputy
        self._registry = registry
        self._slab = slab
        self._door = Door(engine, engine.queue, self._full)

    def run(
        self,
        seats: Sequence[Seat],
        wanted: Sequence[str] | None,
        feed: Mapping[str, Array],
        wait: float,
    ) -> list[Array]:
        """One step of these streams, a row each, in one batch; in the calling thread."""
        request = self.request(seats, wanted, feed)
        self.run_request(request, wait)
        if request.error is not None:
            raise request.error
        return request.outputs or []

    def run_request(self, request: Request, wait: float) -> None:
        """See a request through in the calling thread, unless it has its outputs already.

        Raises:
            PoolError: It has not been run.
        """
        wait = checked_wait(wait)
        if request.outputs is None:
            if not self._engine.run(request, placed=False):
                self._door.enter(request.seats, len(request.seats), wait)
                self._engine.run(request, placed=True)
            if isinstance(request.error, PoolError):
                raise request.error

    def request(
        self, seats: Sequence[Seat], wanted: Sequence[str] | None, feed: Mapping[str, Array]
    ) -> Request:
        """The request for a step of these streams, checked; it has its outputs where it is empty.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
        """
        names = self._intake.names(wanted)
        checked = self._intake.check(feed, len(seats))
        request = Request(seats, (names, checked.shape), checked.arrays, names, checked.steps)
        if checked.feed is not None:
            self._engine.check(seats)
            request.outputs = self._intake.empty(names, checked.feed, len(seats))
        return request

    def requests(
        self,
        seats: Sequence[Seat],
        wanted: Sequence[str] | None,
        feed: Mapping[str, Array],
        at_most: int,
    ) -> list[Request]:
        """`request` for more streams than a batch takes: one request for each batch.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
        """
        whole = self.request(seats, wanted, feed)
        if whole.outputs is not None or len(seats) <= at_most:
            return [whole]
        requests = []
        for first in range(0, len(seats), at_most):
            rows = slice(first, first + at_most)
            arrays = [
                array
                if item.batch_axis is None
                else np.ascontiguousarray(array[(*(slice(None),) * item.batch_axis, rows)])
                for item, array in zip(self.manifest.inputs, whole.arrays, strict=True)
            ]
            requests.append(Request(seats[rows], whole.key, arrays, whole.names, whole.steps))
        return requests

    def submit(
        self,
        seat: Seat,
        wanted: Sequence[str] | None,
        feed: Mapping[str, Array],
        wait: float,
    ) -> PoolFuture:
        """A step as a Future."""
        request = self._copied(seat, wanted, feed)
        future = PoolFuture(lambda: self.deputy.post(self._engine.withdraw, request))
        request.reply = FutureReply(future)
        if request.outputs is not None:
            request.reply.deliver(request)
            return future
        wait = checked_wait(wait)
        self._worker.ensure()
        if not self._engine.start(request, placed=False):
            self._door.enter(request.seats, 1, wait)
            self._engine.start(request, placed=True)
        return future

    async def arun(
        self,
        seat: Seat,
        wanted: Sequence[str] | None,
        feed: Mapping[str, Array],
        wait: float,
    ) -> list[Array]:
        """A step in a task."""
        request = self._copied(seat, wanted, feed)
        if request.outputs is not None:
            return request.outputs
        wait = checked_wait(wait)
        reply = request.reply = TaskReply()
        waiter = TaskWaiter(1)
        try:
            if not wait:
                self.deputy.post(self._start_or_refuse, request)
            elif not await self.deputy.in_loop(self._start_or_line_up, request, waiter, wait):
                await waiter.within(wait)
                await self.deputy.in_loop(self._start_placed, request, waiter)
            await reply.future
        finally:  # also where the task is cancelled, or its coroutine is thrown away
            reply.dropped = True
            if request.status in (NEW, WAITING):
                self.deputy.post(self._take_back, request, waiter)
        if request.error is not None:
            raise request.error
        return request.outputs or []

    def steps(self, seat: Seat) -> int:
        """The step count of a stream."""
        steps = int(self._slab.steps[seat.slot])
        self._engine.check((seat,))  # after the read: until then the row was this stream's
        return steps

    def reset(self, seat: Seat) -> None:
        """Begin anew."""
        # NOTE: under the lock as well, so that a snapshot of the pool sees all of it or nothing
        with self._engine.hold(seat), self._engine.lock:
            self._slab.reset(seat.slot)

    def snapshot(self, seat: Seat) -> bytes:
        """The state as bytes."""
        with self._engine.hold(seat):
            state = self._slab.state(seat.slot)
        return dump_state(state, self.manifest)

    def restore(self, seat: Seat, data: Any, map_states: Mapping[str, str | None] | None) -> None:
        """Take over a state from bytes."""
        state = load_state(data, self.manifest, map_states=map_states)
        if state.batch not in (None, 1):
            raise StateFileError(
                "the snapshot holds a batch, and a stream is one row",
                expected="1 row",
                received=f"{state.batch} rows",
            )
        with self._engine.hold(seat), self._engine.lock:
            self._slab.write([seat.slot], state.values, state.steps)

    def close(self, seat: Seat) -> None:
        """Close a stream."""
        self._registry.close(seat)

    def _copied(
        self, seat: Seat, wanted: Sequence[str] | None, feed: Mapping[str, Array]
    ) -> Request:
        """A request whose arrays the caller may change before it runs."""
        request = self.request((seat,), wanted, feed)
        request.arrays = tuple([array.copy() for array in request.arrays])
        return request

    def _start_or_refuse(self, request: Request) -> None:
        """Queue a task's request; its task hears of an error as of a result."""
        if request.reply.dropped:  # cancelled before its turn came
            return
        try:
            self._worker.ensure()
            if not self._engine.start(request, placed=False):
                raise self._door.refused()
        except RnnonnxError as error:
            request.error = error
            request.status = WITHDRAWN
            deliver([request])

    def _start_or_line_up(self, request: Request, waiter: TaskWaiter, wait: float) -> bool:
        """Queue a task's request; False if it has to wait for a place."""
        if request.reply.dropped:
            return True
        self._worker.ensure()
        started = self._engine.start(request, placed=False)
        if not started and self._door.line_up(request.seats, waiter, wait):
            self._start_placed(request, waiter)
            started = True
        return started

    def _start_placed(self, request: Request, waiter: TaskWaiter) -> None:
        self._door.settle(waiter)
        # the place, and the streams that are waited for, are the request's from here on
        waiter.granted, waiter.seats = False, ()
        self._engine.start(request, placed=True)

    def _take_back(self, request: Request, waiter: TaskWaiter) -> None:
        """Undo what has been done for a task that waits no longer."""
        self._door.give_up(waiter)
        self._engine.withdraw(request)

    def _full(self) -> PoolError:
        return QueueFullError(
            f"the queue is full: {self._engine.queue.limit} requests wait",
            remedy="come later, give a larger max_queue=, or wait: run(..., wait=seconds)",
        )
