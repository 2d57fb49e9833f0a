"""What the page shows of the models: open streams, batches, times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ... import __version__

if TYPE_CHECKING:
    from rnnonnx.runtime import Histogram

    from .._keys import Caller
    from .._models import ModelHost
    from .._service import Service

_MOST_NAMES: Final = 100


class Buckets(msgspec.Struct, frozen=True):
    """How often values fell into which bucket.

    Attributes:
        bounds: Upper bounds, each included; a last bucket has none.
        counts: How many values each bucket has; one more than `bounds`.
    """

    bounds: list[float]
    counts: list[int]


class Pool(msgspec.Struct, frozen=True):
    """The streams of a model. Counts begin anew when the model is replaced.

    Attributes:
        streams: Open ones, of all keys.
        capacity: How many there is room for.
        queued: Requests that wait for a batch.
        own: How many of the open ones are the caller's.
        sequences: The names of those, at most a hundred.
        rows: Steps of single streams that have run.
        batches: Batches that have run.
        failed: Rows that ended with an error.
        batch_size: Rows of the batches.
        wait_seconds: From a request to the start of its batch.
        step_seconds: Time of a batch.
    """

    streams: int
    capacity: int
    queued: int
    own: int
    sequences: list[int | str]
    rows: int
    batches: int
    failed: int
    batch_size: Buckets
    wait_seconds: Buckets
    step_seconds: Buckets


class ModelOverview(msgspec.Struct, frozen=True):
    """A model.

    Attributes:
        name: Its name.
        ready: Whether it is loaded.
        reason: Why not.
        succeeded: Requests that succeeded since the server started.
        failed: Requests that failed.
        pool: Its streams; None while it is not loaded, or has no states.
    """

    name: str
    ready: bool
    reason: str
    succeeded: int
    failed: int
    pool: Pool | None


class Overview(msgspec.Struct, frozen=True):
    """A server, as a caller may see it."""

    version: str
    key: str
    models: list[ModelOverview]


def overview(service: Service, caller: Caller) -> Overview:
    """What there is now."""
    models = [_model(host, caller) for host in service.models]
    return Overview(__version__, caller.name, models)


def _model(host: ModelHost, caller: Caller) -> ModelOverview:
    counts = host.counts.read()
    return ModelOverview(
        host.name,
        host.model is not None,
        host.reason,
        counts.success.count,
        counts.fail.count,
        _pool(host, caller),
    )


def _pool(host: ModelHost, caller: Caller) -> Pool | None:
    if host.pool is None:
        return None
    stats = host.pool.stats()
    own = host.sequences.open(caller)
    return Pool(
        stats.streams,
        stats.capacity,
        stats.queued,
        len(own),
        sorted(own, key=str)[:_MOST_NAMES],
        stats.rows,
        stats.batches,
        stats.failed,
        _buckets(stats.batch_size),
        _buckets(stats.wait_seconds),
        _buckets(stats.step_seconds),
    )


def _buckets(histogram: Histogram) -> Buckets:
    return Buckets(list(histogram.bounds), list(histogram.counts))
