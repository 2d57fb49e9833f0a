"""What a pool counts, as Prometheus and OpenTelemetry clients read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from rnnonnx.errors import PartialRunError, PoolFullError, QueueFullError
from rnnonnx.runtime import Model, StreamPool
from rnnonnx.runtime.pool._stats import BATCH_BOUNDS, COUNTERS, SECONDS_BOUNDS, Buckets

HISTOGRAMS = ("batch_size", "wait_seconds", "step_seconds")


@dataclass
class Sums:
    """A meter that adds up what it is told."""

    counters: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)

    def add(self, name, amount):
        self.counters[name] = self.counters.get(name, 0) + amount

    def record(self, name, values):
        self.values.setdefault(name, []).extend(values)


class Prometheus:
    """A collector that reads a pool when it is scraped."""

    def __init__(self, pool):
        self.pool = pool

    def collect(self):
        stats = self.pool.stats()
        for name in ("streams", "capacity", "queued"):
            yield GaugeMetricFamily(f"pool_{name}", name, value=getattr(stats, name))
        for name in COUNTERS:
            yield CounterMetricFamily(f"pool_{name}", name, value=getattr(stats, name))
        for name in HISTOGRAMS:
            histogram = getattr(stats, name)
            buckets = [
                ("+Inf" if math.isinf(bound) else str(bound), count)
                for bound, count in histogram.cumulative()
            ]
            yield HistogramMetricFamily(f"pool_{name}", name, buckets, histogram.sum)


class OpenTelemetry:
    """A meter that feeds instruments."""

    def __init__(self, meter):
        self.counters = {name: meter.create_counter(f"pool.{name}") for name in COUNTERS}
        self.histograms = {name: meter.create_histogram(f"pool.{name}") for name in HISTOGRAMS}

    def add(self, name, amount):
        self.counters[name].add(amount)

    def record(self, name, values):
        for value in values:
            self.histograms[name].record(value)


def exercise(pool):
    """Something of everything: 3 opened, 1 closed, 4 failed, 2 refused, several batches."""
    streams = [pool.open(str(i)) for i in range(3)]
    with pytest.raises(PoolFullError):
        pool.open("more")
    for _ in range(4):
        pool.run_many(streams, np.ones((3, 1), "int64"))
    with pytest.raises(PartialRunError):
        pool.run_many(streams, np.array([[1], [9], [9]]))
    with pytest.raises(PartialRunError):
        pool.run_many(streams[:2], np.array([[9], [9]]))
    with pool._engine.exclusive():
        futures = [s.submit(None, {"i": np.ones((1, 1), "int64")}) for s in streams[:2]]
        with pytest.raises(QueueFullError):
            streams[2].submit(None, {"i": np.ones((1, 1), "int64")})
        assert pool.stats().queued == 2
    for future in futures:
        future.result(10)
    streams[0].close()


@pytest.fixture
def exercised(zoo):
    provider_reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[provider_reader])
    sums, telemetry = Sums(), OpenTelemetry(provider.get_meter("test"))

    class Both:
        def add(self, name, amount):
            sums.add(name, amount)
            telemetry.add(name, amount)

        def record(self, name, values):
            sums.record(name, values)
            telemetry.record(name, values)

    with StreamPool(Model.load(zoo.failing()), capacity=3, max_queue=2, meter=Both()) as pool:
        exercise(pool)
        yield pool, sums, provider_reader
    provider.shutdown()


EXPECTED = {
    "opened": 3,
    "closed": 1,
    "evicted": 0,
    "refused": 2,
    "failed": 4,
    "rows": 3 * 4 + 3 + 2 + 2,
    "steps": 3 * 4 + 3 + 2 + 2,
}


def test_streams_are_those_that_were_opened_and_have_not_left(ledger):
    pool = StreamPool(ledger, capacity=4)
    streams = [pool.open(str(i)) for i in range(3)]
    streams[0].close()
    pool.close()
    stats = pool.stats()
    assert (stats.opened, stats.closed, stats.streams) == (3, 3, 0)


def test_the_record(exercised):
    pool, _, _ = exercised
    stats = pool.stats()
    assert {name: getattr(stats, name) for name in EXPECTED} == EXPECTED
    assert (stats.streams, stats.capacity, stats.queued) == (2, 3, 0)
    # max_queue=2 cuts run_many in pieces of two
    assert stats.requests == 4 * 2 + 2 + 1 + 2
    assert stats.batches == stats.step_seconds.count == stats.batch_size.count
    assert stats.batch_size.sum == stats.rows == stats.wait_seconds.count
    assert 0 < stats.step_seconds.sum < 10
    assert all(len(h.counts) == len(h.bounds) + 1 for h in (stats.batch_size, stats.wait_seconds))
    with pytest.raises(AttributeError):
        stats.rows = 0


def test_a_meter_hears_the_same(exercised):
    pool, sums, _ = exercised
    stats = pool.stats()
    for name in COUNTERS:
        assert sums.counters.get(name, 0) == getattr(stats, name), name
    for name in HISTOGRAMS:
        assert len(sums.values[name]) == getattr(stats, name).count
        assert sum(sums.values[name]) == pytest.approx(getattr(stats, name).sum)


def test_prometheus_reads_it(exercised):
    pool, _, _ = exercised
    registry = CollectorRegistry()
    registry.register(Prometheus(pool))
    stats = pool.stats()
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("streams", "capacity", "queued"):
        assert families[f"pool_{name}"].samples[0].value == getattr(stats, name)
    for name in COUNTERS:
        (sample,) = families[f"pool_{name}"].samples
        assert (sample.name, sample.value) == (f"pool_{name}_total", getattr(stats, name))
    for name in HISTOGRAMS:
        histogram = getattr(stats, name)
        samples = families[f"pool_{name}"].samples
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
        assert buckets == [(bound, float(count)) for bound, count in histogram.cumulative()]
        values = {s.name: s.value for s in samples}
        assert values[f"pool_{name}_count"] == histogram.count
        assert values[f"pool_{name}_sum"] == pytest.approx(histogram.sum)


def test_opentelemetry_reads_it(exercised):
    pool, _, reader = exercised
    stats = pool.stats()
    (resource,) = reader.get_metrics_data().resource_metrics
    points = {
        metric.name: metric.data.data_points[0]
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    for name in COUNTERS:
        value = getattr(stats, name)
        assert value == (points[f"pool.{name}"].value if value else 0)
    for name in HISTOGRAMS:
        point = points[f"pool.{name}"]
        assert point.count == getattr(stats, name).count
        assert point.sum == pytest.approx(getattr(stats, name).sum)


def test_a_meter_that_raises_changes_nothing(zoo, caplog):
    class Broken:
        def add(self, *_what):
            raise RuntimeError("no connection")

        record = add

    with StreamPool(zoo.ledger(), capacity=1, meter=Broken()) as pool:
        stream = pool.open("a")
        for _ in range(3):
            future = stream.submit(None, {"x": np.array([[1]])})
            assert future.result(10)[0].shape == (1, 1)
        assert pool.stats().rows == 3
    assert "no connection" in caplog.text


@pytest.mark.parametrize("bounds", [BATCH_BOUNDS, SECONDS_BOUNDS])
def test_buckets_one_by_one_and_together(bounds):
    values = [*bounds, 0.0, *(bound * 1.01 for bound in bounds)]
    one, together = Buckets(bounds), Buckets(bounds)
    for value in values:
        one.add(value)
    together.add_all(values)
    assert one.read() == together.read()
    for bound, count in one.read().cumulative():
        assert count == sum(value <= bound for value in values)
