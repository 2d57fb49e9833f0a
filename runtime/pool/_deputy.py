"""The thread that does for the main thread what no interrupt may split.

Python runs signal handlers in the main thread, between any two of its instructions, and what
they raise (KeyboardInterrupt) ends whatever it was at. So the main thread changes nothing of a
pool: it hands each call over, whole, and waits for the answer. All other threads, which no
handler runs in, call directly.
"""

from __future__ import annotations

import _thread
import asyncio
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Withdrawn(BaseException):
    """Ends a call in the deputy that the main thread no longer waits for. Never seen outside."""


class Errand:
    """A call that is handed over.

    Args:
        call: What is to be called.
        told: Called when it has been, in the deputy.

    Attributes:
        result: What it returned.
        error: What it raised.
        withdrawn: Whether nobody waits for it any longer.
    """

    __slots__ = ("_call", "_told", "_wake", "error", "result", "withdrawn")

    def __init__(self, call: Callable[[], Any], told: Callable[[], object]) -> None:
        self._call = call
        self._told = told
        self._wake: Callable[[], object] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.withdrawn = False

    def carry_out(self) -> None:
        """Call, unless it has been withdrawn."""
        if self.withdrawn:
            return
        _CURRENT.errand = self
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            self.error = error
        finally:
            _CURRENT.errand = self._wake = None
            self._told()

    def withdraw(self) -> None:
        """Have it end without effect, if it has had none; in any thread but the main one."""
        self.withdrawn = True
        # NOTE: read after the flag is set, as `blocks` sets before it reads the flag
        wake = self._wake
        if wake is not None:
            wake()

    def blocks(self, wake: Callable[[], object]) -> None:
        """Say that the call is about to wait, and what ends the waiting.

        Raises:
            Withdrawn: It has been withdrawn.
        """
        self._wake = wake
        if self.withdrawn:
            raise Withdrawn

    def answer(self) -> Any:
        """What the call returned, or its error raised."""
        if self.error is None:
            return self.result
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame


class Deputy:
    """The thread of one pool, started when the main thread first calls."""

    def __init__(self) -> None:
        # NOTE: `put` is one call in C: an interrupt comes before it or after it
        self._errands: SimpleQueue[Errand | None] = SimpleQueue()
        self._role = threading.Lock()
        self._stopped = False
        self._ended = False
        self.thread: threading.Thread | None = None

    def do(self, call: Callable[Given, Result], *args: Given.args, **kw: Given.kwargs) -> Result:
        """Call here; in the main thread, have it called and wait.

        After an interrupt the call is withdrawn: what waits for its turn has no effect, what has
        had its turn takes effect.
        """
        if not self._ready():
            return call(*args, **kw)
        answered = _thread.allocate_lock()
        answered.acquire()
        errand = Errand(lambda: call(*args, **kw), answered.release)
        try:
            self._hand_over(errand)
            answered.acquire()
        except BaseException:
            # NOTE: another thread, for it takes the pool's lock; and one call in C
            _thread.start_new_thread(errand.withdraw, ())
            raise
        result: Result = errand.answer()
        return result

    def post(self, call: Callable[Given, object], *args: Given.args, **kw: Given.kwargs) -> None:
        """As `do`, without waiting and without an answer; in the order of all calls."""
        if self._ready():
            self._hand_over(Errand(lambda: call(*args, **kw), _nothing))
        else:
            call(*args, **kw)

    async def in_loop(
        self, call: Callable[Given, Result], *args: Given.args, **kw: Given.kwargs
    ) -> Result:
        """As `do`, while the loop goes on. A task that is cancelled meanwhile undoes it itself."""
        if not self._ready():
            return call(*args, **kw)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(_settle, future)
            except RuntimeError:  # the loop is closed, and the task with it
                return

        errand = Errand(lambda: call(*args, **kw), tell)
        self._hand_over(errand)
        await future
        result: Result = errand.answer()
        return result

    def stop(self) -> None:
        """Have the thread end once it has done what it was given; does not wait."""
        self._stopped = True
        self._errands.put(None)

    def forget(self) -> None:
        """In a process that was forked, where the thread is not."""
        self._stopped = True
        self.thread = None

    def _ready(self) -> bool:
        """Whether the call is to be handed over: the thread runs then."""
        if self._stopped or threading.current_thread() is not threading.main_thread():
            return False
        if self.thread is None:
            try:
                threading.Thread(target=self._work, name="rnnonnx-deputy", daemon=True).start()
            except RuntimeError:  # the interpreter goes down, or there are no threads left
                return False
        return True

    def _hand_over(self, errand: Errand) -> None:
        self._errands.put(errand)
        if self._ended:  # the pool was closed meanwhile
            self._do_rest()

    def _do_rest(self) -> None:
        with suppress(Empty):
            while True:
                rest = self._errands.get_nowait()
                if rest is not None:
                    rest.carry_out()

    def _work(self) -> None:
        # NOTE: an interrupt may have come between a start and its caller's knowing of it
        if not self._role.acquire(blocking=False):
            return
        self.thread = threading.current_thread()
        while (errand := self._errands.get()) is not None:
            errand.carry_out()
            del errand  # a pool that is forgotten must not be kept by its last call
        # NOTE: what is put before the flag is seen is done here, and what is put after it there
        self._ended = True
        self._do_rest()


def current() -> Errand | None:
    """The errand that this thread is on; None in threads that call directly."""
    return getattr(_CURRENT, "errand", None)


def about_to_block(wake: Callable[[], object]) -> None:
    """`Errand.blocks` of the errand that this thread is on, if it is on one."""
    errand = current()
    if errand is not None:
        errand.blocks(wake)


def aside(call: Callable[..., object], *arguments: Any) -> None:
    """Call a user's function, which is no part of the errand that this thread is on."""
    errand, _CURRENT.errand = current(), None
    try:
        call(*arguments)
    finally:
        _CURRENT.errand = errand


_CURRENT: Final = threading.local()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nothing() -> None:
    """Nobody waits for it."""
