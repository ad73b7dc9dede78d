"""Metrics as Prometheus reads them (the text format 0.0.4)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jobs.metrics import METRICS, Metric, series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Reading:
    """What a gauge shows now."""

    name: str
    value: float
    labels: tuple[str, ...] = ()
    """In the order of the table."""


def render(sums: Mapping[str, float], readings: Iterable[Reading], shown_by: str) -> bytes:
    """Return the page: counters from ``sums``, gauges from ``readings``, and what the kernel says of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(sums, tuple(readings), shown_by))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Page(Collector):
    sums: Mapping[str, float]
    readings: tuple[Reading, ...]
    shown_by: str

    def collect(self) -> Iterator[Family]:
        for metric in METRICS.values():
            if metric.shown_by in {self.shown_by, "both"}:
                yield self._family(metric)
        yield from PROCESS_COLLECTOR.collect()

    def _family(self, metric: Metric) -> Family:
        match metric.kind:
            case "gauge":
                gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                for reading in self.readings:
                    if reading.name == metric.name:
                        gauge.add_metric(reading.labels, reading.value)
                return gauge
            case "counter":
                counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
                for found in series(metric, self.sums):
                    counter.add_metric(found.labels, found.value)
                return counter
            case "histogram":
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for found in series(metric, self.sums):
                    histogram.add_metric(found.labels, found.buckets, found.value)
                return histogram
