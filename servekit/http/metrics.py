"""The numbers of `engine/stats.py` as Prometheus and OpenMetrics read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING

from servekit.engine.stats import Histogram, Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric

OTHER = "other"


def render(snapshot: Snapshot, states: Mapping[str, int], accept: str | None) -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics where `accept` prefers it, else Prometheus' text format."""
    # Imported when somebody asks: most workers are never asked.
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Numbers(Collector):
        def collect(self) -> Iterator[Metric]:
            return _families(snapshot, states)

    registry = CollectorRegistry()
    registry.register(Numbers())
    encode, content_type = choose_encoder(accept or "")
    return encode(registry), content_type


def _families(snapshot: Snapshot, states: Mapping[str, int]) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    requests = CounterMetricFamily("servekit_requests", "Replies by path and status.", labels=["path", "code"])
    durations = HistogramMetricFamily(
        "servekit_request_duration_seconds", "From the whole request to its reply.", labels=["path"]
    )
    for path, route in snapshot.routes.items():
        for status, count in route.replies.items():
            if count:
                requests.add_metric([path or OTHER, str(status) if status else OTHER], count)
        durations.add_metric([path or OTHER], *_cumulative(route.seconds))
    yield requests
    yield durations

    batches = CounterMetricFamily("servekit_batches", "Calls of predict by why the batch closed.", labels=["reason"])
    for reason, count in snapshot.batches.items():
        batches.add_metric([reason], count)
    yield batches
    for name, text, histogram in (
        ("servekit_batch_rows", "Rows of a batch.", snapshot.rows),
        ("servekit_queue_wait_seconds", "From a request's arrival in the queue to its batch.", snapshot.wait_s),
        ("servekit_model_duration_seconds", "One call of predict.", snapshot.model_s),
    ):
        family = HistogramMetricFamily(name, text)
        family.add_metric([], *_cumulative(histogram))
        yield family

    workers = GaugeMetricFamily("servekit_workers", "Worker processes by state.", labels=["state"])
    for state, number in states.items():
        workers.add_metric([state], number)
    yield workers
    info = InfoMetricFamily("servekit_build", "Versions.")
    info.add_metric([], {"version": version("servekit"), "python": python_version()})
    yield info


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """(upper bound, values up to it) for each bucket, and the sum."""
    buckets = []
    count = 0.0
    for bound, here in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        count += here
        buckets.append((bound, count))
    return buckets, histogram.total
