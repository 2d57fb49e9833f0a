"""The thread of a pool: it runs what no caller waits for in a thread, and evicts.

It is a daemon, and the interpreter waits for it all the same: it is stopped before the
interpreter goes down, since ONNX Runtime must not be torn away from under it. For a callback
that does not return it waits some seconds.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._deputy import Deputy
    from ._engine import Engine
    from ._registry import Registry


class Worker:
    """The thread of one pool, started when it is first needed.

    Args:
        engine: Whose batches it runs.
        registry: Whose idle streams it evicts.
        deputy: The pool's other thread, which comes and goes with this one.
    """

    def __init__(self, engine: Engine, registry: Registry, deputy: Deputy) -> None:
        self._engine = engine
        self._registry = registry
        self._deputy = deputy
        # NOTE: its `put` may be called anywhere: under the pool's lock, and by the garbage
        # collector, which may run under it too. A Condition allows neither.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung = False
        self._stopping = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        engine.ring = self.ring
        _WORKERS.add(self)

    def ensure(self) -> None:
        """Start the thread if it does not run yet.

        Raises:
            RuntimeError: The system has no more threads.
        """
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                dead = self._thread is None or not self._thread.is_alive()
                if dead and not self._stopping:
                    thread = threading.Thread(target=self._work, name="rnnonnx-pool", daemon=True)
                    thread.start()
                    self._thread = thread

    def ring(self) -> None:
        """Have it look for work."""
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def stop(self) -> None:
        """Have both threads end once nothing is left to run; does not wait."""
        self._stopping = True
        self._rung = True
        self._bell.put(None)
        self._deputy.stop()

    def join(self, patience: float = math.inf) -> None:
        """Wait for the end of both threads, unless it is one of them that asks.

        Args:
            patience: How many seconds to wait while no batch is run: for a user's callback.
        """
        team = [self._thread, self._deputy.thread]
        if threading.current_thread() in team:
            return
        give_up = monotonic() + patience
        for thread in team:
            while thread is not None and thread.is_alive():
                if monotonic() >= give_up and not self._engine.running:
                    break
                thread.join(None if patience == math.inf else _LOOK)

    def forget(self) -> None:
        """In a process that was forked, where the thread is not."""
        self._thread = None
        self._stopping = True
        self._starting = threading.Lock()
        self._deputy.forget()
        self._engine.forget()

    def _work(self) -> None:
        due = self._look_for_idle()
        while True:
            with suppress(Empty):
                self._bell.get(timeout=max(0.0, due - monotonic()) if due < math.inf else None)
            # NOTE: before the work is looked for, so that what comes meanwhile rings again
            self._rung = False
            while self._engine.lead():
                if monotonic() >= due:  # under full load the bell is never waited for
                    due = self._look_for_idle()
            if self._stopping:
                return
            if monotonic() >= due:
                due = self._look_for_idle()

    def _look_for_idle(self) -> float:
        """Evict; when to do so again, on the monotonic clock."""
        pause = self._registry.evict()
        return math.inf if pause is None else monotonic() + pause


_PATIENCE: Final = 5.0
"""Seconds that the interpreter waits for callbacks when it goes down."""

_LOOK: Final = 0.1
"""Seconds after which it is looked whether only a callback is waited for."""

_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    workers = list(_WORKERS)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join(_PATIENCE)


def _forget_all() -> None:
    for worker in list(_WORKERS):
        worker.forget()


os.register_at_fork(after_in_child=_forget_all)
