"""Results of each part as tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.backbones import DRAWS, BackboneResult
from benchmarks.decoding import DecodingResult
from benchmarks.engines import EngineResult
from benchmarks.milvus import BATCHES, MilvusResult
from benchmarks.network import BATCH, NetworkResult
from benchmarks.on_ray import RayResult
from benchmarks.served import COMPARED, ServeResult
from benchmarks.stages import StageResult
from benchmarks.stores import FlatResult, StoreResult
from benchmarks.taught import TaughtResult
from benchmarks.votes import VoteResult
from secondlook.indexer.results import Table
from secondlook.model.bundles.engine_race import SIZES


def engine_table(results: Sequence[EngineResult]) -> Table:
    """Speed of each engine beside bare ONNX Runtime's, and how far it says the same."""
    alone, together = SIZES

    def row(r: EngineResult) -> tuple[str, ...]:
        one, many = r.images_per_second
        return (
            r.name,
            f"{one:,.1f} / {many:,.1f}",
            f"{r.times_bare[0]:.2f} / {r.times_bare[1]:.2f}",
            f"{r.least_cosine:.4f}",
            "" if r.same_top1_percent is None else f"{r.same_top1_percent:.1f}",
            "yes" if r.is_served else r.why_not,
        )

    both = f"at {alone} / {together}"
    columns = ("engine", f"images/s {both}", "of the first", "least cosine of keys", "same first class, %", "is served")
    return Table("engines", columns, tuple(map(row, results)))


def network_table(results: Sequence[NetworkResult]) -> Table:
    """What an encoder takes as it is served, and what it would take otherwise."""
    first = results[0]

    def of(value: float | None, digits: int = 0) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    return Table(
        f"an encoder of {first.weight_mb:,.1f} MB",
        (
            *(
                "way",
                "start, s",
                "memory, MB",
                "of its weights",
                "batches, MB",
                "one image, ms",
                f"batch {BATCH}, images/s",
            ),
            *("start", "one image", f"batch {BATCH}"),
        ),
        tuple(
            (
                r.name,
                f"{r.start_seconds:.2f}",
                of(r.memory_mb),
                of(r.memory_over_weights, 2),
                of(r.batches_mb),
                f"{r.milliseconds_one:.2f}",
                f"{r.images_per_second:,.0f}" if r.images_per_second >= 100 else f"{r.images_per_second:.1f}",
                f"{r.start_seconds / first.start_seconds:.2f}",
                f"{r.milliseconds_one / first.milliseconds_one:.2f}",
                f"{r.images_per_second / first.images_per_second:.2f}",
            )
            for r in results
        ),
    )


def stage_table(results: Sequence[StageResult]) -> Table:
    """What each stage of an answer takes."""
    stages = ("decode", "encode", "search", "vote", "cache as served", "cache / encode", "whole")
    return Table(
        "stages, ms an image",
        ("batch", *stages, "exact sum", "exact sum / encode"),
        tuple(
            (
                str(r.batch),
                f"{r.decode_ms:.3f}",
                f"{r.encode_ms:.3f}",
                f"{r.search_ms:.3f}",
                f"{r.vote_ms:.3f}",
                f"{r.cache_ms:.3f}",
                f"{r.cache_over_encode:.3f}",
                f"{r.predict_ms:.3f}",
                f"{r.exact_sum_ms:.3f}",
                f"{r.exact_sum_ms / r.encode_ms:.1f}",
            )
            for r in results
        ),
    )


def vote_table(results: Sequence[VoteResult]) -> Table:
    """What the vote takes by classes and neighbours."""
    times = {(r.classes, r.k, r.batch): r.ms for r in results}
    return Table(
        "vote and mixture, ms a query",
        ("classes", "k", "one", "of 32"),
        tuple(
            (f"{classes:,}", f"{k:,}", f"{times[classes, k, 1]:.3f}", f"{times[classes, k, 32]:.3f}")
            for classes, k in dict.fromkeys((r.classes, r.k) for r in results)
        ),
    )


def taught_table(results: Sequence[TaughtResult]) -> Table:
    """Answers and teaching beside more and more taught images."""
    first = results[0]
    return Table(
        "answers beside taught images",
        (
            *("taught images", "one ms", "of none", "images/s, of 16", "of none"),
            *("one more taught, ms", "of none", "one ms meanwhile", "open, s"),
        ),
        tuple(
            (
                f"{r.images:,}",
                f"{r.one_ms:.2f}",
                f"{r.one_ms / first.one_ms:.2f}",
                f"{r.images_per_second:,.0f}",
                f"{r.images_per_second / first.images_per_second:.2f}",
                f"{r.teach_ms:.1f}",
                f"{r.teach_ms / first.teach_ms:.2f}",
                f"{r.meanwhile_ms:.2f}",
                f"{r.open_s:.2f}",
            )
            for r in results
        ),
    )


def serve_table(result: ServeResult) -> Table:
    """How servers bear a load."""
    return Table(
        f"servers, {result.images}, one a request, ms",
        (
            *("server", "connections", "images/s", "p50", "p95", "p99", "answered", "failed"),
            *("processor, ms an image", "sender's cores"),
        ),
        tuple(
            (
                server.name,
                str(r.connections) if r.connections else f"open, {r.offered_per_second:,.0f}/s",
                f"{r.images_per_second:,.0f}",
                *(f"{ms:.2f}" for ms in (r.p50_ms, r.p95_ms, r.p99_ms)),
                f"{r.answered:,}",
                str(r.failures),
                "" if r.processor_ms is None else f"{r.processor_ms:.2f}",
                f"{r.sender_cores:.2f}",
            )
            for server in result.servers
            for r in (*server.closed, server.open)
        ),
    )


def flat_table(results: Sequence[FlatResult]) -> Table:
    """FAISS's two ways to search all keys."""
    return Table(
        f"flat search of {results[0].entries:,} x {results[0].dim}, ms a query",
        ("batch", "loop", "BLAS"),
        tuple((str(r.batch), f"{r.loop_ms:.3f}", f"{r.blas_ms:.3f}") for r in results),
    )


def store_table(results: Sequence[StoreResult]) -> Table:
    """What stores cost and lose, by size."""
    return Table(
        "stores, search and vote",
        (
            *("entries", "store", "searched", "again %", "build s", "bytes/entry", "MB", "recall %"),
            *("changed top-1 %", "of the k nearest's %", "one ms", "of encode", "of 32 ms", "of encode", "over floor"),
        ),
        tuple(
            (
                f"{r.entries:,}",
                r.factory + (" (auto)" if r.is_auto else ""),
                r.search_settings,
                f"{r.searched_again_percent:.0f}",
                f"{r.build_seconds:.1f}",
                f"{r.bytes_per_entry:.0f}",
                f"{r.bytes_per_entry * r.entries / 1e6:,.0f}",
                f"{r.recall_percent:.1f}",
                f"{r.changed_top1_percent:.2f}",
                f"{r.changed_among_nearest_percent:.2f}",
                f"{r.one_ms:.3f}",
                f"{r.one_over_encode:.2f}",
                f"{r.many_ms:.3f}",
                f"{r.many_over_encode:.2f}",
                f"{r.one_over_floor:.1f}",
            )
            for r in results
        ),
    )


def decoding_table(results: Sequence[DecodingResult]) -> Table:
    """Decoding in processes beside decoding in threads."""
    return Table(
        "decoding, in threads / in processes",
        ("file", "bytes", "at once", "images/s", "ratio", "ms", "ms of the processor", "ratio"),
        tuple(
            (
                r.file,
                f"{r.bytes:,}",
                str(r.waiting),
                f"{r.threads.rate:,.0f} / {r.processes.rate:,.0f}",
                f"{r.rate_ratio:.2f}",
                f"{r.threads.ms:.2f} / {r.processes.ms:.2f}",
                f"{r.threads.processor_ms:.3f} / {r.processes.processor_ms:.3f}",
                f"{r.processor_ratio:.2f}",
            )
            for r in results
        ),
        "an image each; ratios are those of turns side by side",
    )


def backbone_table(results: Sequence[BackboneResult]) -> Table:
    """Backbones beside each other."""
    first = results[0]
    asked = [(folder, count) for folder, counts in first.right.items() for count in counts]
    return Table(
        "backbones",
        (
            *("backbone", "bytes", "pixels", "images/s, alone", f"of {BATCH}", "of the first"),
            *(f"{folder}, {count} a class" for folder, count in asked),
        ),
        tuple(
            (
                r.name,
                f"{r.bytes:,}",
                f"{r.side} x {r.side}",
                f"{1000 / r.milliseconds_one:,.0f}",
                f"{r.images_per_second:,.0f}",
                f"{first.milliseconds_one / r.milliseconds_one:.2f} / "
                f"{r.images_per_second / first.images_per_second:.2f}",
                *(
                    f"{r.right[folder][count].cache:.1f} / {r.right[folder][count].linear:.1f}"
                    for folder, count in asked
                ),
            )
            for r in results
        ),
        f"test photos right, %: cache alone / linear head alone, means of {DRAWS} draws",
    )


def milvus_table(results: Sequence[MilvusResult]) -> Table:
    """Milvus beside FAISS."""
    return Table(
        "Milvus, and FAISS here on the same keys with the same search settings",
        (
            *("index", "entries", "search settings", "build, s"),
            *(f"{batch} queries, ms" for batch in BATCHES),
            *("Milvus over FAISS", "same top-1 as exact", "similarities within", "recall %"),
        ),
        tuple(
            (
                r.index,
                f"{r.entries:,}",
                r.search_settings,
                f"{r.milvus_build_seconds:.1f} / {r.faiss_build_seconds:.1f}",
                *(f"{r.milvus_ms[batch]:.2f} / {r.faiss_ms[batch]:.2f}" for batch in BATCHES),
                " ".join(f"{r.milvus_ms[batch] / r.faiss_ms[batch]:.1f}" for batch in BATCHES),
                f"{r.same_top1:,} of {r.answers:,}",
                f"{r.largest_difference:.1e}",
                f"{r.recall_percent:.1f}",
            )
            for r in results
        ),
    )


def ray_table(results: Sequence[RayResult]) -> Table:
    """Ways to embed the same files."""
    return Table(
        f"embedding of {results[0].images:,} image files",
        ("way", "images/s", "of index", "first file after, s"),
        tuple(
            (
                r.name,
                f"{r.images_per_second:,.0f}",
                f"{r.images_per_second / results[0].images_per_second:.2f}",
                f"{r.first_file_seconds:.1f}" if r.first_file_seconds is not None else "",
            )
            for r in results
        ),
    )


def serve_sentences(result: ServeResult) -> list[str]:
    """The ratios, in words."""
    said = [
        f"in-process, batches of {result.batch}: {result.in_process_images_per_second:,.0f} images/s; "
        f"{result.in_process_processor_ms:.2f} ms of the processor for each; "
        f"one image: {result.in_process_one_ms:.2f} ms"
    ]
    for server in result.servers:
        ratios = result.ratios(server)
        said.append(
            f"{server.name} ({server.settings}): {ratios['images_per_second_over_in_process']:.2f} of that at "
            f"{COMPARED} connections, for {ratios['processor_over_in_process']:.2f} times the processor's time; "
            f"p50 at one {ratios['p50_of_one_over_in_process']:.2f} times that of one image"
        )
        if server is not result.servers[0]:
            p99 = (f"{ratios[f'our_p99_over_its_at_{r.connections}']:.2f} at {r.connections}" for r in server.closed)
            said.append(
                f"{result.servers[0].name} answers {ratios['our_images_per_second_over_its']:.2f} times as many "
                f"images/s at {COMPARED} connections; its p50 at one is {ratios['our_p50_of_one_over_its']:.2f} of "
                f"this, its p99 {', '.join(p99)}"
            )
    said += [
        f"tried: {tried.name} {tried.settings}: {tried.images_per_second:,.0f} images/s at {COMPARED} connections"
        for tried in result.tried
    ]
    return said + [f"{name} is not installed: left out" for name in result.skipped]
