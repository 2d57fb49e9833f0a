"""Who runs the next batch, and when: the one lock of a pool, and the lead under it.

One batch runs at a time. Who runs it has the lead: a thread that waits in a blocking call
anyway, so that a lone stream pays for no change of threads, or else the worker, which there
is for Futures and tasks. The lead is given up before results are delivered, so that a
callback may use the pool.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rnnonnx.errors import PoolClosedError, RunError, StreamClosedError

from ._company import Company
from ._deputy import Withdrawn, about_to_block
from ._evictions import Evictions
from ._gate import Gate
from ._replies import FutureReply, ThreadReply, deliver
from ._scheduler import WAITING, WITHDRAWN, Request
from ._stats import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rnnonnx.errors import PoolError

    from ._arguments import Limits
    from ._batch import Runner
    from ._reports import Reports
    from ._scheduler import Scheduler, Seat


class Engine:
    """Runs the requests of one pool.

    Args:
        scheduler: Its queue.
        runner: Its way of running a batch.
        reports: Where measurements go.
        limits: How many may wait, and for how long.

    Attributes:
        lock: Protects everything but the running of a batch.
        queue: The places of the queue.
        counts: What has been counted.
        company: What batches wait for.
        ring: Wakes the worker; callable under the lock.
        concluded: Called under the lock with what is done, and the time.
        forgotten: Whether this is a process that was forked from the pool's.
        evictions: The streams whose eviction callback runs.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, reports: Reports, limits: Limits
    ) -> None:
        self.lock = threading.Lock()
        self.queue = Gate(limits.max_queue)
        self.counts = Counts()
        self.company = Company(self.lock, scheduler, limits.max_delay)
        self.ring: Callable[[], None] = _nothing
        self.concluded: Callable[[Sequence[Request], float], None] = _nothing
        self.evictions = Evictions()
        self._scheduler = scheduler
        self._runner = runner
        self._reports = reports
        self._leader: object = None
        self._exclusives: deque[ThreadReply] = deque()
        self._quiet = threading.Condition(self.lock)
        self._shut: str | None = None
        self.forgotten = False

    # --- requests --------------------------------------------------------------------------

    def run(self, request: Request, *, placed: bool) -> bool:
        """See a request through, in the thread that calls.

        Args:
            request: What is to be run.
            placed: Whether it has its place in the queue already.

        Returns:
            False if it has none, and there is none at once; nothing has been done then.

        Raises:
            PoolError: The pool or the stream has been closed.
        """
        self.evictions.check(request.seats)
        with self.lock:
            alone = self._take_alone(request, placed=placed)
            if not alone:
                reply = request.reply = ThreadReply()
                if not self._enqueue(request, placed=placed):
                    return False
                if not self._claim(reply):
                    reply.arm()
        if alone:
            self._run_taken([request], request, request.arrived)
        else:
            self._see_through(request, reply)
        return True

    def start(self, request: Request, *, placed: bool) -> bool:
        """Queue a request of a Future or a task. Arguments, result and errors as `run`."""
        with self.lock:
            if not self._enqueue(request, placed=placed):
                return False
            if self._leader is None and self._scheduler.ready:
                self.ring()
        return True

    def withdraw(self, request: Request) -> None:
        """Take back a request that is in no batch yet; others stay as they are."""
        if request.status == WAITING:
            with self.lock:
                self._remove(request)

    @contextmanager
    def hold(self, seat: Seat) -> Iterator[None]:
        """Keep a stream out of batches, after the requests that it has queued already.

        Raises:
            PoolError: The pool or the stream is closed, or is meanwhile.
        """
        request = Request((seat,), None)
        self.evictions.check(request.seats)
        reply = request.reply = ThreadReply()
        with self.lock:
            self.check(request.seats)
            ready = self._scheduler.add(request)
            if not ready and not self._claim(reply):
                reply.arm()
        if not ready:
            self._see_through(request, reply)
        if request.error is not None:
            raise request.error
        try:
            yield
        finally:
            self.release(request)

    def take_hold(self, seat: Seat) -> Request | None:
        """Under the lock: a hold of a stream that has no requests; None if it has some."""
        if seat.queue:
            return None
        request = Request((seat,), None)
        self._scheduler.add(request)
        return request

    def release(self, hold: Request) -> None:
        """End a hold."""
        with self.lock:
            self._strike_out([hold], monotonic())
            if self._leader is None:
                self._pass_on()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all batches from running.

        Raises:
            PoolClosedError: The pool is closed.
        """
        reply = ThreadReply()
        with self.lock:
            self.check(())
            if self._leader is None:
                self._leader = reply
            else:
                self._exclusives.append(reply)
                reply.arm()
                self.company.changed()
        try:
            about_to_block(reply.wake)
            while self._leader is not reply:
                reply.sleep()
                about_to_block(reply.wake)
            yield
        finally:
            with self.lock:
                if self._leader is reply:
                    self._resign()
                else:
                    self._exclusives.remove(reply)

    # --- for the worker, the registry and the pool -----------------------------------------

    def check(self, seats: Sequence[Seat]) -> None:
        """Under the lock: whether these streams can be used.

        Raises:
            PoolClosedError: The pool is closed.
            StreamClosedError: One of the streams is.
        """
        if self._shut is not None:
            raise self.closed_error()
        for seat in seats:
            if seat.closed is not None:
                raise seat.error()

    def closed_error(self) -> PoolError:
        """Why the pool takes nothing more."""
        return PoolClosedError(f"the pool {self._shut}", remedy="make a new StreamPool")

    def refused(self) -> None:
        """Count a refusal."""
        with self.lock:
            self.counts.totals["refused"] += 1
        self._reports.add("refused")

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._scheduler.queued

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return self._shut is None

    @property
    def running(self) -> bool:
        """Whether a batch is run, or somebody keeps batches from running."""
        return self._leader is not None

    def can_lead(self) -> bool:
        """Under the lock: whether there is something to run and nobody who does."""
        return self._leader is None and self._scheduler.ready > 0

    def lead(self) -> bool:
        """Run one batch, if there is one and nobody else runs one; whether one was run."""
        me = object()
        with self.lock:
            if not self._claim(me):
                return False
        self._run_one(None)
        return True

    def fail(
        self, requests: Iterable[Request], error: Callable[[Request], PoolError]
    ) -> list[Request]:
        """Under the lock: end requests that are in no batch yet.

        Returns:
            Those that have ended, to be delivered without the lock.
        """
        failed = []
        for request in requests:
            if self._remove(request):
                request.error = error(request)
                failed.append(request)
        return failed

    def shut(self, why: str) -> None:
        """Take nothing more, from now on.

        Raises:
            PoolError: An eviction callback asks, which the end would wait for.
        """
        self.evictions.check(())
        with self.lock:
            if self._shut is None:
                self._shut = why
                self.queue.shut()
                self.company.changed()

    def drain(self) -> None:
        """Run all that is queued, here or elsewhere, and wait for its end."""
        while not self.forgotten:
            with self.lock:
                if not self._scheduler.queued and self._leader is None:
                    return
                if not self.can_lead():
                    about_to_block(self._end_quiet)
                    self._quiet.wait()
                    continue
            self.lead()

    def forget(self) -> None:
        """In a process that was forked: the threads that held locks here are not in it."""
        self.forgotten = True
        self.lock = threading.Lock()
        self.company.awaited = False
        self._quiet = threading.Condition(self.lock)
        self._shut = "was made in the process from which this one was forked"

    # --- the lead --------------------------------------------------------------------------

    def _enqueue(self, request: Request, *, placed: bool) -> bool:
        if placed:
            _arrive(request)
        try:
            self.check(request.seats)
        except (PoolClosedError, StreamClosedError):
            if placed:
                self.queue.leave(len(request.seats))
            raise
        if not placed and not self.queue.enter(len(request.seats)):
            return False
        request.arrived = monotonic()
        self._scheduler.add(request)
        self.company.joined()
        return True

    def _take_alone(self, request: Request, *, placed: bool) -> bool:
        """Take the lead for this request, which nobody else is there to share a batch with.

        What a lone stream pays for being in a pool is this way's price: no place in the queue or
        in the line, nothing to be woken by.
        """
        rows = len(request.seats)
        if self._leader is not None or self._shut is not None:
            return False
        if self.queue.contested and not placed:
            return False
        if self.company.needed(rows) or not self._scheduler.take_alone(request):
            return False
        if placed:
            _arrive(request)
            self.queue.leave(rows)
        request.arrived = monotonic()
        self._leader = request
        return True

    def _remove(self, request: Request) -> bool:
        removed, holds = self._scheduler.withdraw(request)
        if removed:
            _wake(holds)
            if request.key is not None:
                self.queue.leave(len(request.seats))
            if self.can_lead():
                self._pass_on()
            self._quiet.notify_all()
            self.company.changed()
        return removed

    def _claim(self, me: object) -> bool:
        """Under the lock: take the lead if there is use for it and nobody has it."""
        if self._leader is not None or not self._scheduler.ready:
            return False
        self._leader = me
        return True

    def _resign(self) -> None:
        """Under the lock: give the lead up."""
        self._leader = None
        self._pass_on()

    def _pass_on(self) -> None:
        """Under the lock, with nobody in the lead: see to it that somebody is, if needed."""
        if self._shut is not None:
            self._quiet.notify_all()
        if self._exclusives:
            self._appoint(self._exclusives.popleft())
            return
        oldest = self._scheduler.oldest()
        if oldest is None:
            return
        if type(oldest.reply) is ThreadReply:
            self._appoint(oldest.reply)
        else:
            # NOTE: it takes the lead when it comes to it. Kept for it, the lead could wait for
            # a callback that the worker is in, and that callback for the lead.
            self.ring()

    def _appoint(self, reply: ThreadReply) -> None:
        self._leader = reply
        reply.wake()

    def _see_through(self, request: Request, reply: ThreadReply) -> None:
        """Wait until a request is no longer pending, running batches where nobody else does.

        Raises:
            Withdrawn: It has been withdrawn.
        """

        def withdraw() -> None:
            with self.lock:
                self._remove(request)
            reply.wake()

        try:
            about_to_block(withdraw)
        except Withdrawn:
            self.withdraw(request)
        try:
            while request.pending:
                if self._leader is not reply:
                    reply.sleep()
                    continue
                self._run_one(request)
                with self.lock:
                    # NOTE: it may have been appointed while it delivered what it ran
                    if request.pending and self._leader is not reply and not self._claim(reply):
                        reply.arm()
        finally:
            if self._leader is reply:  # its end came while it was appointed
                with self.lock:
                    self._resign()
        if request.status == WITHDRAWN and request.error is None:
            raise Withdrawn

    def _run_one(self, own: Request | None) -> None:
        """With the lead: run a batch, give the lead up, and deliver.

        Args:
            own: What the thread waits for; None for the worker, which waits for nothing.
        """
        requests: list[Request] = []
        try:
            with self.lock:
                requests = self._collect()
        finally:
            self._run_taken(requests, own, monotonic())

    def _run_taken(self, requests: list[Request], own: Request | None, started: float) -> None:
        """The same with a batch that has been taken already; it may be empty."""
        ended = started
        try:
            if requests:
                self._runner.run(requests)
        except BaseException as error:  # nobody may be left waiting
            for request in requests:
                if request.outputs is None and request.error is None:
                    request.error = RunError(f"the batch could not be run: {error!r}")
                    request.error.__cause__ = error
            if not isinstance(error, Exception):
                raise
        finally:
            ended = monotonic()
            with self.lock:
                self._strike_out(requests, ended)
                if requests:
                    self.counts.batch(requests, started, ended)
                self._leader = None
                if own is None or not own.pending or self._exclusives:
                    self._pass_on()
            deliver(requests)
        self._reports.batch(requests, started, ended)

    def _collect(self) -> list[Request]:
        """Under the lock: the next batch, once there is company enough for the first in line."""
        self.company.wait(lambda: self._shut is None and not self._exclusives)
        waiting = self._scheduler.queued
        taken = self._scheduler.take()
        self.queue.leave(waiting - self._scheduler.queued)
        cancelled = [
            request
            for request in taken
            if type(request.reply) is FutureReply and not request.reply.begin()
        ]
        if cancelled:
            self._strike_out(cancelled, monotonic())
            return [request for request in taken if request not in cancelled]
        return taken

    def _strike_out(self, requests: Sequence[Request], now: float) -> None:
        """Under the lock: these are done; their streams go on."""
        _wake(self._scheduler.finish(requests))
        self.concluded(requests, now)

    def _end_quiet(self) -> None:
        with self.lock:
            self._quiet.notify_all()


def _arrive(request: Request) -> None:
    for seat in request.seats:
        seat.awaited -= 1


def _wake(holds: Iterable[Request]) -> None:
    for hold in holds:
        if hold.reply is not None:
            hold.reply.wake()


def _nothing(*_arguments: object) -> None:
    """What is called before there is a worker or a registry."""
