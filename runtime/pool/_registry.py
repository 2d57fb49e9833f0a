"""The open streams: who has which row, who is idle, who comes and goes."""

from __future__ import annotations

from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING, Final

import numpy as np

from rnnonnx.errors import PoolError, PoolFullError, StreamClosedError

from .._state_blob import dump_state
from .._stream_states import StreamStates
from ._admission import Door
from ._deputy import about_to_block
from ._gate import Gate, TaskWaiter
from ._replies import deliver
from ._reports import guarded
from ._scheduler import Seat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rnnonnx.manifest import Manifest

    from ._arguments import Limits
    from ._deputy import Deputy
    from ._engine import Engine
    from ._reports import Reports
    from ._scheduler import Request
    from ._slab import Slab

_EVICTED_AT_ONCE: Final = 32
"""Streams that are evicted before requests are looked at again."""

_NEVER: Final = np.inf
"""When a row that no stream has was used last."""


class Registry:
    """The streams of one pool.

    Args:
        engine: The pool's.
        slab: Its states.
        manifest: Its model's manifest, which snapshots name.
        reports: Where measurements go.
        limits: How many streams there may be, and when they are idle.
        on_evict: Called with the id and the snapshot of each stream that is evicted.
    """

    def __init__(
        self,
        engine: Engine,
        slab: Slab,
        manifest: Manifest,
        reports: Reports,
        limits: Limits,
        on_evict: Callable[[str, bytes], object] | None,
    ) -> None:
        self._engine = engine
        self._slab = slab
        self._manifest = manifest
        self._reports = reports
        self._idle_timeout = limits.idle_timeout
        capacity = limits.capacity
        self._on_evict = on_evict
        self._seats: dict[str, Seat] = {}
        self._leaving: list[Seat] = []
        # rows that were in use and are free; beside them, those from `_untouched` up. The
        # lowest is given out first, so that rows lie side by side
        self._free: list[int] = []
        self._untouched = 0
        self._by_slot: dict[int, Seat] = {}
        # NOTE: not filled: what no stream has had costs no memory
        self._last_used = np.zeros(capacity)
        self.places = Gate(capacity)
        self._door = Door(engine, self.places, self._full)
        engine.concluded = self._concluded

    def __len__(self) -> int:
        return len(self._seats)

    def ids(self) -> tuple[str, ...]:
        """The open streams, the one that was opened first first."""
        return tuple(self._seats)  # one call in C, which needs no lock

    def seats(self, ids: Sequence[str]) -> list[Seat]:
        """The seats of these streams.

        Raises:
            PoolError: One is not open.
        """
        self._engine.check(())
        try:
            return [self._seats[key] for key in ids]
        except (KeyError, TypeError):
            pass
        unknown = [k for k in ids if not isinstance(k, str) or k not in self._seats]
        raise StreamClosedError(
            "no such streams are open", received=unknown[:5], remedy="pool.open(id) opens one"
        )

    def open(self, key: str, wait: float) -> Seat:
        """Open a stream, in its initial state.

        Raises:
            PoolError: The id is taken, there is no room, or the pool is closed.
        """
        self._check_new(key)
        if self.places.used >= self.places.limit:
            self.evict()
        self._door.enter((), 1, wait)
        return self._seated(key)

    async def open_in_loop(self, key: str, wait: float, deputy: Deputy) -> Seat:
        """As `open`, in a task."""
        waiter = TaskWaiter(1)
        made: list[Seat] = []
        try:
            if not await deputy.in_loop(self._open_or_line_up, key, wait, waiter, made):
                await waiter.within(wait)
                await deputy.in_loop(self._open_placed, key, waiter, made)
        except BaseException:  # also a cancellation, which came before or after the opening
            deputy.post(self._take_back, waiter, made)
            raise
        return made[0]

    def close(self, seat: Seat) -> None:
        """Close a stream. What it has queued fails; what is in a batch has its effect."""
        with self._engine.lock:
            if seat.closed is not None:
                return
            failed = self._leave(seat, "has been closed")
            self._engine.counts.totals["closed"] += 1
        self._reports.add("closed")
        deliver(failed)

    def fail_all(self) -> None:
        """End all that is queued: the pool is closed."""
        with self._engine.lock:
            queued = {request for seat in self._seats.values() for request in seat.queue}
            failed = self._engine.fail(queued, lambda _request: self._engine.closed_error())
        deliver(failed)

    def close_all(self) -> None:
        """Close all streams: the pool is closed."""
        with self._engine.lock:
            self.places.shut()
            seats = list(self._seats.values())
            failed = [
                request
                for seat in seats
                for request in self._leave(seat, "is closed: so is its pool")
            ]
            self._engine.counts.totals["closed"] += len(seats)
        self._reports.add("closed", len(seats))
        deliver(failed)

    def restore(self, streams: StreamStates) -> list[Seat]:
        """Open these streams in these states: all of them or none.

        Raises:
            PoolError: An id is taken, there is not room for all, or the pool is closed.
        """
        count = len(streams.ids)
        with self._engine.lock:
            self._engine.check(())
            taken = [key for key in streams.ids if key in self._seats]
            if taken:
                raise PoolError(
                    "streams of the snapshot are open already",
                    received=taken[:5],
                    remedy="close them first, or restore into another pool",
                )
            if not self.places.enter(count):
                raise PoolFullError(
                    "the pool has no room for the streams of the snapshot",
                    expected=f"at most {self.places.limit - self.places.used} streams",
                    received=f"{count} streams",
                    remedy="a pool of a larger capacity",
                )
            seats = [self._place(key) for key in streams.ids]
            slots = [seat.slot for seat in seats]
            if count:
                self._slab.write(slots, streams.values, np.array(streams.steps, np.int64))
        self._reports.add("opened", count)
        return seats

    def export(self) -> StreamStates:
        """The states of all open streams."""
        with self._engine.lock:
            slots = [seat.slot for seat in self._seats.values()]
            ids = tuple(self._seats)
            values = self._slab.read(slots)
            steps = self._slab.steps[slots].tolist()
        return StreamStates(self._slab.layout, values, ids, steps)

    def evict(self) -> float | None:
        """Evict streams that are idle.

        Returns:
            In how many seconds to look again; None is never.
        """
        if self._idle_timeout is None:
            return None
        with self._engine.lock:
            if not self._engine.open:
                return None
            used = self._last_used[: self._untouched]
            idle = np.flatnonzero(used <= monotonic() - self._idle_timeout)
        for slot in idle[:_EVICTED_AT_ONCE].tolist():
            about_to_block(_nothing)  # a callback may take its time
            hold = self._hold_idle(slot, self._idle_timeout)
            if hold is not None:
                self._evict(hold)
        if len(idle) > _EVICTED_AT_ONCE:
            return 0.0
        with self._engine.lock:
            first = float(self._last_used[: self._untouched].min(initial=_NEVER))
        # a stream that is opened after this is idle no sooner than this much later
        return min(self._idle_timeout, max(0.0, first + self._idle_timeout - monotonic()))

    def _hold_idle(self, slot: int, timeout: float) -> Request | None:
        """A hold of the stream in this row; None if it is not idle, or not any longer.

        One at a time: a stream that is held cannot be used.
        """
        with self._engine.lock:
            now = monotonic()
            seat = self._by_slot.get(slot)
            if seat is None or seat.closed or not self._last_used[slot] <= now - timeout:
                return None
            hold = None if seat.awaited else self._engine.take_hold(seat)
            if hold is None:  # it has requests, or they wait for a place
                self._last_used[slot] = now
            return hold

    def _evict(self, hold: Request) -> None:
        (seat,) = hold.seats
        failed: list[Request] = []
        outcome = "failed"
        try:
            with self._engine.evictions.of(seat):
                snapshot = dump_state(self._slab.state(seat.slot), self._manifest)
                if self._on_evict is None or guarded(
                    "the pool's eviction callback", self._on_evict, seat.id, snapshot
                ):
                    outcome = "evicted"
        finally:
            with self._engine.lock:
                # NOTE: after a callback that raised the stream stays, with its time begun
                # anew: its state would be lost with it
                open_still = seat.closed is None
                if open_still:
                    self._engine.counts.totals[outcome] += 1
                    if outcome == "evicted":
                        failed = self._leave(seat, "was idle, and has been evicted")
            self._engine.release(hold)
            if open_still:
                self._reports.add(outcome)
            deliver(failed)

    def _open_or_line_up(self, key: str, wait: float, waiter: TaskWaiter, made: list[Seat]) -> bool:
        """Open a task's stream, into `made`; False if it has to wait for a place."""
        self._check_new(key)
        entered = self._door.line_up((), waiter, wait)
        if entered:
            self._open_placed(key, waiter, made)
        return entered

    def _open_placed(self, key: str, waiter: TaskWaiter, made: list[Seat]) -> None:
        self._door.settle(waiter)
        waiter.granted = False  # the place is the stream's from here on
        made.append(self._seated(key))

    def _take_back(self, waiter: TaskWaiter, made: list[Seat]) -> None:
        """Undo what has been done for a task that waits no longer."""
        self._door.give_up(waiter)
        for seat in made:
            self.close(seat)

    # --- under the lock --------------------------------------------------------------------

    def _check_new(self, key: object) -> None:
        if not isinstance(key, str):
            raise PoolError("a stream's id is no text", received=repr(key), remedy="str(id)")
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise PoolError(
                "a stream's id cannot be written as UTF-8, as snapshots need it",
                received=ascii(key),
            ) from error
        with self._engine.lock:
            self._engine.check(())
            self._check_untaken(key)

    def _check_untaken(self, key: str) -> None:
        if key in self._seats:
            raise PoolError(
                f"a stream {key!r} is open already",
                remedy="pool.stream(id) gives it; close it before its id is used again",
            )

    def _seated(self, key: str) -> Seat:
        """With a place taken: the new stream."""
        with self._engine.lock:
            try:
                self._engine.check(())
                self._check_untaken(key)
            except PoolError:
                self.places.leave()
                raise
            seat = self._place(key)
            self._slab.reset(seat.slot)
        self._reports.add("opened")
        return seat

    def _place(self, key: str) -> Seat:
        if self._free:
            slot = heappop(self._free)
        else:
            slot = self._untouched
            self._untouched += 1
        seat = Seat(key, slot)
        self._seats[key] = self._by_slot[seat.slot] = seat
        self._last_used[seat.slot] = monotonic()
        self._engine.company.streams += 1
        self._engine.counts.totals["opened"] += 1
        return seat

    def _leave(self, seat: Seat, why: str) -> list[Request]:
        """Close a stream; its row is free once nothing of it is in a batch or held."""
        seat.closed = why
        del self._seats[seat.id]
        self._engine.company.streams -= 1
        self._engine.company.changed()
        self._leaving.append(seat)
        failed = self._engine.fail(list(seat.queue), lambda _request: seat.error())
        self._vacate()
        return failed

    def _vacate(self) -> None:
        staying = []
        for seat in self._leaving:
            if seat.queue:
                staying.append(seat)
                continue
            del self._by_slot[seat.slot]
            self._last_used[seat.slot] = _NEVER
            heappush(self._free, seat.slot)
            self.places.leave()
        self._leaving = staying

    def _concluded(self, requests: Sequence[Request], now: float) -> None:
        if self._idle_timeout is not None:
            slots = [seat.slot for request in requests for seat in request.seats]
            self._last_used[slots] = now
        if self._leaving:
            self._vacate()

    def _full(self) -> PoolError:
        return PoolFullError(
            f"the pool is full: {self.places.limit} streams are open",
            remedy="close streams, set idle_timeout=, give a larger capacity=, or wait: "
            "open(id, wait=seconds)",
        )


def _nothing() -> None:
    """What wakes a callback: it ends by itself."""
