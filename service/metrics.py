"""What a server counts, for Prometheus at ``GET /metrics``.

Every label has few values: routes are templates, methods and reasons come from fixed lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from model.lookup import Spent
from model.predictor import Answer
from service.problems import Kind, to_problem

if TYPE_CHECKING:
    from service.state import State

# A time of birth beside every counter would double the page; the process has one.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("decode", "queue", "encode", "search", "vote")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "unmatched"
CLIENT_GONE = 499
"""The status counted where the client left before the answer began: nginx's number, as none was sent."""

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_BATCH_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_NOVELTIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1, 2)


class Metrics:
    """One app's metrics, in a registry of their own: several apps in one process do not mix."""

    def __init__(self) -> None:
        self.running: State | None = None
        """Read at each scrape, once the server has started."""
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "secondlook_requests",
            f"HTTP requests by route; status {CLIENT_GONE}: the client left before the answer.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "secondlook_request_duration_seconds",
            "From the headers received to the answer sent.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "secondlook_requests_in_flight", "HTTP requests being answered, a scrape among them.", registry=registry
        )
        self._rejected = Counter(
            "secondlook_rejected",
            "Requests answered with a problem document, by its type; internal errors are status 500 in requests.",
            ["reason"],
            registry=registry,
        )
        self._images = Counter(
            "secondlook_images",
            "Images sent, by what came of them: answered, or a problem's type.",
            ["outcome"],
            registry=registry,
        )
        self._batch_images = Histogram(
            "secondlook_batch_images", "Images computed at once.", buckets=_BATCH_IMAGES, registry=registry
        )
        self._stage_seconds = Histogram(
            "secondlook_stage_duration_seconds",
            "Seconds by stage: decode of an image (with its wait for a thread), queue of a request; encode, search and "
            "vote of a batch.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._differing = Counter(
            "secondlook_answers_differing",
            "Answers in which network and cache name different classes.",
            registry=registry,
        )
        self._novel = Counter("secondlook_answers_novel", "Answers to images called novel.", registry=registry)
        self._top_probability = Histogram(
            "secondlook_top_probability",
            "Mixed probability of the first class of each answer, under the parameters of its request.",
            buckets=_PROBABILITIES,
            registry=registry,
        )
        self._novelty = Histogram(
            "secondlook_novelty_score",
            "1 - similarity of the calibrated neighbour, of each answer.",
            buckets=_NOVELTIES,
            registry=registry,
        )
        registry.register(_ReadAtScrape(self))
        ProcessCollector(registry=registry)
        # A series that appears only with its first event has no rate for that event.
        for kind in Kind:
            if kind is not Kind.INTERNAL:
                self._rejected.labels(kind.slug)
        # Kept, because looking one up costs more than counting.
        self._stages = {stage: self._stage_seconds.labels(stage) for stage in STAGES}
        self._answered = self._images.labels("answered")

    def answered_request(
        self, method: str, route: str | None, status: int | None, kind: Kind | None, seconds: float
    ) -> None:
        """Count a request: its route's template, the status sent (None = the client left), and its problem."""
        route = route or NO_ROUTE
        named = method if method in METHODS else "other"
        self._requests.labels(named, route, str(status or CLIENT_GONE)).inc()
        self._request_seconds.labels(route).observe(seconds)
        if status is not None and kind is not None and kind is not Kind.INTERNAL:
            self._rejected.labels(kind.slug).inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count seconds of a stage."""
        self._stages[stage].observe(seconds)

    def observe_batch(self, images: int, spent: Spent) -> None:
        """Count a batch computed; called from the compute thread."""
        self._batch_images.observe(images)
        self.observe_stage("encode", spent.encode)
        self.observe_stage("search", spent.search)
        self.observe_stage("vote", spent.vote)

    def count_results(self, results: Iterable[Answer | Exception]) -> None:
        """Count what came of a request's images."""
        for result in results:
            if isinstance(result, Exception):
                self._images.labels(to_problem(result).kind.slug).inc()
                continue
            self._answered.inc()
            if result.network.argmax() != result.cache.argmax():
                self._differing.inc()
            if result.is_novel:
                self._novel.inc()
            self._top_probability.observe(float(result.mixed.max()))
            self._novelty.observe(result.novelty)

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class _ReadAtScrape(Collector):
    """What is a state rather than an event: read when asked for, so that it cannot be out of date."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("secondlook_build", "What runs.", {"version": version("secondlook")})
        state = self._metrics.running
        if state is None:
            return
        door, batcher, bundle = state.door, state.batcher, state.batcher.predictor.bundle
        yield InfoMetricFamily(
            "secondlook_generation",
            "The bundle that answers.",
            {"generation": bundle.manifest.generation, "engine": bundle.engine.name},
        )
        rebuilding = any(job.state == "running" for job in state.rebuilds.listing())
        for name, meaning, value in (
            ("secondlook_entries", "Entries of the cache that answers.", bundle.store.count),
            ("secondlook_ready", "1 while images are answered.", state.is_ready),
            ("secondlook_queue_images", "Images waiting to be computed.", batcher.waiting),
            ("secondlook_queue_oldest_seconds", "How long the oldest of them waits.", batcher.oldest_s),
            ("secondlook_admitted_images", "Images let in and not yet answered.", door.images),
            ("secondlook_admitted_bytes", "Their bytes.", door.bytes),
            ("secondlook_admitted_images_limit", "Images let in at most; beyond it, 429.", door.max_images),
            ("secondlook_admitted_bytes_limit", "Bytes let in at most; beyond it, 429.", door.max_bytes),
            ("secondlook_rebuild_running", "1 while a rebuild runs.", rebuilding),
        ):
            yield GaugeMetricFamily(name, meaning, float(value))
        rebuilds = CounterMetricFamily("secondlook_rebuilds", "Rebuilds that are over.", labels=["state"])
        for ended in ("succeeded", "failed", "cancelled"):
            rebuilds.add_metric([ended], state.rebuilds.ended[ended])
        yield rebuilds
        dropped = CounterMetricFamily(
            "secondlook_dropped", "Requests given up before they cost a forward pass.", labels=["reason"]
        )
        for reason in ("client_gone", "deadline"):
            dropped.add_metric([reason], door.dropped[reason])
        yield dropped
        yield CounterMetricFamily(
            "secondlook_batcher_restarts", "Deaths of the batching task or its thread.", value=batcher.restarts
        )
