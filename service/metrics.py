"""Counts requests, images, stages and states for Prometheus, at ``GET /metrics``.

Every label has few values: routes are templates, methods and reasons come from fixed lists.

With several workers, each keeps its figures in files that all can read (prometheus_client's multiprocess mode, switched
on by its environment variable before it is imported): a page is what all of them count together, whichever answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from secondlook.model.answering.predictor import Answer, Outcome
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.service.problems import Kind, to_problem
from secondlook.service.settings import METRICS_FOLDER

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


EndedBy = Literal["too_slow", "deadline", "abandoned", "put_off", "crashed"]


class Snapshot(NamedTuple):
    """A server's state at one moment."""

    generation: str
    engine: str
    entries: int
    added_images: int
    """Those that the generation does not have itself."""
    is_store_unreachable: bool
    is_ready: bool
    waiting_images: int
    oldest_s: float
    """How long the oldest of them waits."""
    admitted_images: int
    admitted_bytes: int
    max_images: int
    max_bytes: int
    is_rebuilding: bool


class Metrics:
    """One app's metrics, in a registry of their own: several apps in one process do not mix."""

    def __init__(self) -> None:
        self.read: Callable[[], Snapshot] | None = None
        """Called at each scrape, once the server has started."""
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
            "secondlook_requests_in_flight",
            "HTTP requests being answered, a scrape among them.",
            registry=registry,
            multiprocess_mode="livesum",
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
            "Seconds by stage: decode of an image (with its wait for a process), queue of a request; encode, search "
            "and vote of a batch.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._differing = Counter(
            "secondlook_answers_differing",
            "Answers in which network and cache name different classes.",
            registry=registry,
        )
        self._without_cache = Counter(
            "secondlook_answers_without_cache",
            "Answers of the network alone: no entry voted, as the cache has none or could not be asked.",
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
            "Novelty of each answer, 0 to 1 (in bundles from before that, 1 - similarity of an entry).",
            buckets=_NOVELTIES,
            registry=registry,
        )
        self._rebuilds = Counter("secondlook_rebuilds", "Rebuilds that are over.", ["state"], registry=registry)
        self._dropped = Counter(
            "secondlook_dropped", "Requests given up before they cost a forward pass.", ["reason"], registry=registry
        )
        self._ended_decodings = Counter(
            "secondlook_decodings_ended",
            "Times that decoding was ended by force: of images too_slow, past their deadline or abandoned by their "
            "client, put_off for smaller ones (to be begun anew), or that crashed it.",
            ["reason"],
            registry=registry,
        )
        self._restarts = Counter(
            "secondlook_batcher_restarts", "Deaths of the batching task or its thread.", registry=registry
        )
        self._states = _States(registry)
        self._shared = os.environ.get(METRICS_FOLDER)
        if self._shared is None:
            registry.register(_Infos(self))
            ProcessCollector(registry=registry)
        # A series that appears only with its first event has no rate for that event.
        for kind in Kind:
            if kind is not Kind.INTERNAL:
                self._rejected.labels(kind.slug)
        for ended in ("succeeded", "failed", "cancelled"):
            self._rebuilds.labels(ended)
        for reason in ("client_gone", "deadline"):
            self._dropped.labels(reason)
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

    def observe_batch(self, images: int, timer: StageTimer) -> None:
        """Count a batch computed; called from the compute thread."""
        self._batch_images.observe(images)
        self.observe_stage("encode", timer.encode)
        for stage, seconds in (("search", timer.search), ("vote", timer.vote)):
            if seconds:  # where only keys are wanted, there is neither
                self.observe_stage(stage, seconds)

    def count_results(self, results: Iterable[Outcome | Exception]) -> None:
        """Count what came of a request's images."""
        for result in results:
            if isinstance(result, Exception):
                self._images.labels(to_problem(result).kind.slug).inc()
                continue
            self._answered.inc()
            if not isinstance(result, Answer):
                continue
            if not result.has_cache:
                self._without_cache.inc()
            elif result.has_network and result.network.argmax() != result.cache.argmax():
                self._differing.inc()
            if result.is_novel:
                self._novel.inc()
            self._top_probability.observe(float(result.mixed.max()))
            if result.novelty is not None:
                self._novelty.observe(result.novelty)

    def count_rebuild(self, state: str) -> None:
        """Count a rebuild that is over."""
        self._rebuilds.labels(state).inc()

    def count_dropped(self, reason: Literal["client_gone", "deadline"]) -> None:
        """Count a request that was given up before it cost a forward pass."""
        self._dropped.labels(reason).inc()

    def count_ended_decoding(self, reason: EndedBy) -> None:
        """Count a decoding that was ended by force."""
        self._ended_decodings.labels(reason).inc()

    def count_restart(self) -> None:
        """Count a death of the compute thread."""
        self._restarts.inc()

    def publish(self) -> None:
        """Bring up to date what is a state rather than an event, for whoever writes the page."""
        if self.read is not None:
            self._states.set(self.read(), is_worker=self._shared is not None)

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        self.publish()
        if self._shared is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, self._shared)  # type: ignore[no-untyped-call]
        together.register(_Infos(self))
        return generate_latest(together)


class _Infos(Collector):
    """The version and the generation, in words: the same in all workers but for the seconds after a switch."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("secondlook_build", "What runs.", {"version": version("secondlook")})
        if self._metrics.read is not None:
            now = self._metrics.read()
            yield InfoMetricFamily(
                "secondlook_generation",
                "The bundle that answers.",
                {"generation": now.generation, "engine": now.engine},
            )


Mode = Literal["livesum", "livemax", "livemin", "livemostrecent"]

STATES: dict[str, tuple[str, str, Mode]] = {
    "entries": ("entries", "Entries of the cache that answers.", "livemostrecent"),
    "added_images": ("taught_images", "Taught images that the generation does not have itself.", "livemostrecent"),
    "is_store_unreachable": (
        "store_away",
        "1 while the keys are on another machine that does not answer.",
        "livemax",
    ),
    "is_ready": ("ready", "1 while images are answered; 0 where any worker answers none.", "livemin"),
    "waiting_images": ("queue_images", "Images waiting to be computed.", "livesum"),
    "oldest_s": ("queue_oldest_seconds", "How long the oldest of them waits.", "livemax"),
    "admitted_images": ("admitted_images", "Images let in and not yet answered.", "livesum"),
    "admitted_bytes": ("admitted_bytes", "Their bytes.", "livesum"),
    "max_images": ("admitted_images_limit", "Images let in at most; beyond it, 429.", "livesum"),
    "max_bytes": ("admitted_bytes_limit", "Bytes let in at most; beyond it, 429.", "livesum"),
    "is_rebuilding": ("rebuild_running", "1 while a rebuild runs.", "livemax"),
}
"""Of a snapshot's fields: the gauge's name, its meaning, and how those of several workers become one."""


class _States:
    """States: read when asked for, so that they cannot be out of date; of another worker, within a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, meaning: str, mode: Mode) -> Gauge:
            return Gauge(f"secondlook_{name}", meaning, registry=registry, multiprocess_mode=mode)

        self._gauges = {field: gauge(*described) for field, described in STATES.items()}
        self._workers = gauge("workers", "Processes that answer.", "livesum")
        self._registry = registry
        self._process: _Process | None = None

    def set(self, now: Snapshot, *, is_worker: bool) -> None:
        for field, gauge in self._gauges.items():
            gauge.set(getattr(now, field))
        self._workers.set(1)
        if is_worker:
            self._process = self._process or _Process(self._registry)
            self._process.set()


class _Process:
    """What prometheus_client's own collector says of this process, kept where it can be summed over the workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._collector = ProcessCollector(registry=None)
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}
        self._processor: Counter | None = None
        self._counted = 0.0

    def set(self) -> None:
        """Bring them up to date."""
        for family in self._collector.collect():
            for sample in family.samples:
                if family.type == "counter":
                    name = sample.name.removesuffix("_total")
                    self._processor = self._processor or Counter(name, family.documentation, registry=self._registry)
                    self._processor.inc(max(0.0, sample.value - self._counted))
                    self._counted = sample.value
                    continue
                mode: Mode = "livemin" if sample.name.endswith("start_time_seconds") else "livesum"
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = Gauge(
                        sample.name, family.documentation, registry=self._registry, multiprocess_mode=mode
                    )
                self._gauges[sample.name].set(sample.value)
