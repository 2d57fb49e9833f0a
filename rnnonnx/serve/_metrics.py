"""Measurements for Prometheus: requests as they end, pools as they are when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from rnnonnx.runtime import PoolStats

    from ._backend import Backend

_GAUGES: Final = {
    "streams": "Open sequences",
    "capacity": "Sequences that there is room for",
    "queued": "Requests that wait for a batch",
}
_COUNTERS: Final = {
    "opened": "Sequences opened",
    "closed": "Sequences ended",
    "evicted": "Sequences closed since they were idle",
    "refused": "Sequences refused for want of room",
    "failed": "Rows that ended with an error",
    "batches": "Batches run",
    "rows": "Rows run: steps of one sequence",
    "steps": "Time steps run",
}
_HISTOGRAMS: Final = {
    "batch_size": "Rows of a batch",
    "wait_seconds": "From a request to the start of its batch",
    "step_seconds": "Time of a batch",
}


class Metrics:
    """The measurements of one server.

    Args:
        service: The server.
    """

    def __init__(self, service: Backend) -> None:
        # NOTE: not prometheus_client's global registry: a process may have several servers
        self._registry = CollectorRegistry()
        self._registry.register(_Pools(service))
        labels = ("protocol", "endpoint")
        self._requests = Counter(
            "rnnonnx_requests",
            "Requests; status 499 is a client that has gone",
            (*labels, "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "rnnonnx_request_seconds",
            "Time of a request",
            labels,
            registry=self._registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )

    def request(self, protocol: str, endpoint: str, status: int | str, seconds: float) -> None:
        """A request has ended.

        Args:
            protocol: `http`, for instance.
            endpoint: What was asked for; one of few names, not a client's text.
            status: What the protocol says of its end.
            seconds: How long it took.
        """
        self._requests.labels(protocol, endpoint, str(status)).inc()
        self._seconds.labels(protocol, endpoint).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return generate_latest(self._registry)


class _Pools(Collector):
    """The pools, read when Prometheus asks."""

    def __init__(self, service: Backend) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """The counts of each pool, by model. They begin anew when a model is replaced."""
        read = {name: pool.stats() for name, pool in self._service.pools().items()}
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"rnnonnx_{name}", text, labels=["model"])
            for model, stats in read.items():
                gauge.add_metric([model], getattr(stats, name))
            yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"rnnonnx_{name}", text, labels=["model"])
            for model, stats in read.items():
                counter.add_metric([model], getattr(stats, name))
            yield counter
        for name, text in _HISTOGRAMS.items():
            yield _histogram(name, text, read)


def _histogram(name: str, text: str, read: dict[str, PoolStats]) -> Metric:
    family = HistogramMetricFamily(f"rnnonnx_{name}", text, labels=["model"])
    for model, stats in read.items():
        histogram = getattr(stats, name)
        buckets = [
            (str(bound).replace("inf", "+Inf"), count) for bound, count in histogram.cumulative()
        ]
        family.add_metric([model], buckets, histogram.sum)
    return family
