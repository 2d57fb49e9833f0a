"""How the result of a request comes to its caller: a thread, a Future, or a task of a loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ._reports import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._scheduler import Request


class ThreadReply:
    """A thread that waits in a blocking call, and drives the pool if it must."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: Any = None

    def arm(self) -> None:
        """Make ready to sleep; under the pool's lock, so that no waking is missed."""
        if self._event is None:
            # NOTE: a bare lock is a third of the price of a threading.Event
            self._event = threading.Lock()
            self._event.acquire()

    def sleep(self) -> None:
        """Wait until woken."""
        self._event.acquire()

    def wake(self) -> None:
        """End `sleep`, now or when it comes."""
        if self._event is not None and self._event.locked():
            try:
                self._event.release()
            except RuntimeError:  # two woke it at once
                return


class _Condition(threading.Condition):
    """One that an interrupt cannot leave locked.

    `__enter__` and `__exit__` of the base class are Python: an interrupt at the end of the one or
    the beginning of the other would keep the lock for ever, and with it who has a result for
    the Future. A `with` looks both up before it enters.
    """

    @property
    def __enter__(self) -> Any:
        return self._lock.__enter__  # type: ignore[attr-defined]

    @property
    def __exit__(self) -> Any:  # noqa: PYI036 - what it gives is called with the arguments
        return self._lock.__exit__  # type: ignore[attr-defined]


class PoolFuture(Future[Any]):
    """The Future of a request; cancelling it takes the request out of the queue."""

    def __init__(self, withdraw: Callable[[], object]) -> None:
        super().__init__()
        self._condition = _Condition()
        self._withdraw = withdraw

    def cancel(self) -> bool:
        """Take the request back. False if it is in a batch or done: then it has its effect."""
        cancelled = super().cancel()
        if cancelled:
            self._withdraw()
        return cancelled


class FutureReply:
    """A Future.

    Attributes:
        future: It.
    """

    __slots__ = ("future",)

    def __init__(self, future: PoolFuture) -> None:
        self.future = future

    def begin(self) -> bool:
        """Whether it can no longer be cancelled; False if it has been, or its owner settled it."""
        if self.future.done() and not self.future.cancelled():
            return False
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def deliver(self, request: Request) -> None:
        """Settle the Future, which runs its callbacks here."""
        if not self.begin():
            return
        if request.error is not None:
            self.future.set_exception(request.error)
        else:
            self.future.set_result(request.outputs)


class TaskReply:
    """A task of the running loop, which awaits.

    Attributes:
        loop: Its loop.
        future: What it awaits.
        dropped: Whether the task awaits no longer.
    """

    __slots__ = ("dropped", "future", "loop")

    def __init__(self) -> None:
        self.dropped = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()


def deliver(requests: Iterable[Request]) -> None:
    """Tell everybody. Called without the pool's lock: callbacks of Futures run here.

    A loop is called once, however many of its tasks are served.
    """
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for request in requests:
        reply = request.reply
        if reply is None:  # its caller has run it
            continue
        if type(reply) is ThreadReply:
            reply.wake()
        elif type(reply) is FutureReply:
            # NOTE: callbacks raise what they like, and the next request has to hear as well
            guarded("a callback of a pool's Future", reply.deliver, request)
        elif type(reply) is TaskReply:
            loops.setdefault(reply.loop, []).append(reply.future)
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, loop, futures)
        except RuntimeError:  # the loop is closed, and its tasks with it
            continue


def _settle(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]]) -> None:
    try:
        while futures:
            if not futures[-1].done():
                futures[-1].set_result(None)
            futures.pop()
    except BaseException:  # an interrupt: the loop may be run again
        loop.call_soon(_settle, loop, futures)
        raise
