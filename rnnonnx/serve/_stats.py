"""What a model has done since the server started, as Triton's statistics have it.

Beside the pool's own counts, which begin anew when a model is replaced.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something has happened, and how long it took in all.

    Attributes:
        count: How often.
        ns: Nanoseconds, all together.
    """

    count: int = 0
    ns: int = 0

    def plus(self, ns: int, count: int = 1) -> Duration:
        """With more of it."""
        return Duration(self.count + count, self.ns + ns)


@dataclass(frozen=True, slots=True)
class ModelStats:
    """Counts of one model.

    Attributes:
        last_inference: When the last request succeeded, in milliseconds since the epoch; 0 is
            never.
        inferences: Steps of single sequences that ran: the rows of all batches.
        executions: Batches that ran.
        success: Requests that succeeded, with the time from their arrival to their outputs.
        fail: Requests that failed.
        queue: Rows, with the time that they waited for their batch.
        compute: Batches, with the time that they ran.
        batches: The same by the number of rows in the batch.
    """

    last_inference: int
    inferences: int
    executions: int
    success: Duration
    fail: Duration
    queue: Duration
    compute: Duration
    batches: dict[int, Duration]


class Counts:
    """Counts that grow. A `Meter` of the model's pool, whose threads call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._last = 0
        self._success = self._fail = self._queue = Duration()
        self._batches: dict[int, Duration] = {}

    def add(self, name: str, amount: int) -> None:
        """A counter of the pool has grown: `PoolStats` has it."""

    def record(self, name: str, values: Sequence[float]) -> None:
        """A batch has run: its size, its waits and its time come one after the other."""
        if name == "batch_size":
            self._mine.rows = int(values[0])
        elif name == "wait_seconds":
            with self._lock:
                self._queue = self._queue.plus(round(sum(values) * 1e9), len(values))
        elif name == "step_seconds":
            self.batch(self._mine.rows, round(values[0] * 1e9))

    def batch(self, rows: int, ns: int) -> None:
        """A batch of so many rows has run for so many nanoseconds."""
        with self._lock:
            self._batches[rows] = self._batches.get(rows, Duration()).plus(ns)

    def request(self, ns: int, *, failed: bool) -> None:
        """A request has ended after so many nanoseconds."""
        with self._lock:
            if failed:
                self._fail = self._fail.plus(ns)
            else:
                self._success = self._success.plus(ns)
                self._last = time.time_ns() // 1_000_000

    def read(self) -> ModelStats:
        """What there is now."""
        with self._lock:
            batches = dict(sorted(self._batches.items()))
            executions = sum(item.count for item in batches.values())
            return ModelStats(
                last_inference=self._last,
                inferences=sum(rows * item.count for rows, item in batches.items()),
                executions=executions,
                success=self._success,
                fail=self._fail,
                queue=self._queue,
                compute=Duration(executions, sum(item.ns for item in batches.values())),
                batches=batches,
            )
