"""A call that can be cancelled while a thread runs it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import RunError

from ._onnxruntime import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Done:
    """What a call that has ended changed.

    Attributes:
        before: What its session carried before.
    """

    before: Any


class Call:
    """Lets one of two things happen: the call commits, or it is cancelled.

    Attributes:
        run_options: Options to run with; cancelling ends the run at the next node.
    """

    def __init__(self) -> None:
        self.run_options = onnxruntime().RunOptions()
        self._lock = threading.Lock()
        self._cancelled = False
        self._done: Done | None = None

    @contextmanager
    def committing(self, before: Any) -> Iterator[Done]:
        """The block in which the call's session takes over what the call gave.

        Raises:
            RunError: The call was cancelled before.
        """
        with self._lock:
            if self._cancelled:
                raise RunError("the call was cancelled", remedy="the state is as it was before")
            done = Done(before)
            yield done
            self._done = done

    def cancel(self) -> Done | None:
        """Keep the call from committing; what it changed if it already has."""
        with self._lock:
            self._cancelled = True
            self.run_options.terminate = True
            return self._done
