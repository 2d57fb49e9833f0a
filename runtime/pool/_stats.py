"""What a pool counts, and how others come to read it."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._scheduler import Request

BATCH_BOUNDS: Final = tuple(float(2**power) for power in range(13))
"""Upper bounds of the buckets of batch sizes, in rows: 1, 2, 4, ... 4096."""

SECONDS_BOUNDS: Final = tuple(
    round(base * 10.0**power, 9) for power in range(-5, 1) for base in (1.0, 2.5, 5.0)
)
"""Upper bounds of the buckets of times, in seconds: 10 us, 25 us, 50 us, ... 5 s."""


class Meter(Protocol):
    """Where a pool sends its measurements, after every batch and event.

    The methods are called by the threads that run the pool, one at a time for a batch, and
    should return soon. What they raise is logged and changes nothing.

    Names: the counters `opened`, `closed`, `evicted`, `refused`, `failed`, `requests`,
    `batches`, `rows`, `steps`; the histograms `batch_size`, `wait_seconds`, `step_seconds`.
    """

    def add(self, name: str, amount: int) -> None:
        """A counter has grown."""

    def record(self, name: str, values: Sequence[float]) -> None:
        """Values that belong into a histogram."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell into which bucket.

    Attributes:
        bounds: Upper bounds of the buckets, each included; a last bucket has none.
        counts: How many values each bucket has; one more than `bounds`.
        sum: The sum of the values.
        count: Their number.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    count: int

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with how many values are at most that, up to infinity: Prometheus's form."""
        return list(zip((*self.bounds, math.inf), accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The state of a pool at one moment. Totals count from its construction.

    Attributes:
        streams: Open streams.
        capacity: How many there is room for.
        queued: Requests that wait (rows, for `run_many`).
        opened: Streams opened, restored ones among them.
        closed: Streams closed by their owners.
        evicted: Streams closed since they were idle.
        refused: Streams and requests that were refused for want of room.
        failed: Rows that ended with an error, in the model or in the eviction callback.
        requests: Requests run; a `run_many` counts one for each batch.
        batches: Batches run.
        rows: Rows run: one for each step of one stream.
        steps: Time steps run.
        batch_size: Rows of the batches.
        wait_seconds: From the call to the start of its batch, for each row.
        step_seconds: Time of the batches, from gathering to committing.
    """

    streams: int
    capacity: int
    queued: int
    opened: int
    closed: int
    evicted: int
    refused: int
    failed: int
    requests: int
    batches: int
    rows: int
    steps: int
    batch_size: Histogram
    wait_seconds: Histogram
    step_seconds: Histogram


COUNTERS: Final = (
    "opened",
    "closed",
    "evicted",
    "refused",
    "failed",
    "requests",
    "batches",
    "rows",
    "steps",
)


class Buckets:
    """A histogram that grows. Without a lock of its own: the pool's protects it."""

    __slots__ = ("_bounds", "_counts", "_edges", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._edges = np.array(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def add_all(self, values: Sequence[float]) -> None:
        """Count values."""
        places = np.searchsorted(self._edges, np.asarray(values))
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self._sum += sum(values)

    def read(self) -> Histogram:
        """What has been counted."""
        return Histogram(self._bounds, tuple(self._counts), self._sum, sum(self._counts))


class Counts:
    """Everything that a pool counts. The pool's lock protects it.

    Attributes:
        totals: The counters by name.
        batch_size: See `PoolStats`, as the next two.
        wait_seconds: See there.
        step_seconds: See there.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys(COUNTERS, 0)
        self.batch_size = Buckets(BATCH_BOUNDS)
        self.wait_seconds = Buckets(SECONDS_BOUNDS)
        self.step_seconds = Buckets(SECONDS_BOUNDS)

    def batch(self, requests: Sequence[Request], started: float, ended: float) -> None:
        """Count a batch that has run."""
        rows = steps = failed = 0
        waits: list[float] = []
        for request in requests:
            count = len(request.seats)
            rows += count
            steps += request.steps * count
            failed += request.failed
            if count == 1:
                waits.append(started - request.arrived)
            else:
                self.wait_seconds.add(started - request.arrived, count)
        if len(waits) == 1:
            self.wait_seconds.add(waits[0])
        elif waits:
            self.wait_seconds.add_all(waits)
        self.batch_size.add(rows)
        self.step_seconds.add(ended - started)
        totals = self.totals
        totals["requests"] += len(requests)
        totals["batches"] += 1
        totals["rows"] += rows
        totals["steps"] += steps
        totals["failed"] += failed

    def read(self, *, streams: int, capacity: int, queued: int) -> PoolStats:
        """The record of this moment."""
        return PoolStats(
            streams=streams,
            capacity=capacity,
            queued=queued,
            **self.totals,
            batch_size=self.batch_size.read(),
            wait_seconds=self.wait_seconds.read(),
            step_seconds=self.step_seconds.read(),
        )
