"""Results as tables, as one JSON file, and as plots."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engines import EngineResult, IndexResult
from benchmarks.milvus import BATCHES, MilvusResult
from benchmarks.on_ray import RayResult
from benchmarks.served import COMPARED, ServeResult
from benchmarks.stages import StageResult
from benchmarks.stores import FlatResult, StoreResult
from benchmarks.taught import MergedResult, TaughtResult
from benchmarks.votes import VoteResult
from secondlook.evaluation.timing import Machine
from secondlook.indexer.plots import COLOURS, figure


@dataclass
class Report:
    """Everything that one run measured; parts that were not asked for are empty."""

    machine: Machine
    generation: str
    entries: int
    dim: int
    k: int | None
    engines: list[EngineResult] = field(default_factory=list)
    index: IndexResult | None = None
    stages: list[StageResult] = field(default_factory=list)
    serve: ServeResult | None = None
    taught: list[TaughtResult] = field(default_factory=list)
    merged: MergedResult | None = None
    votes: list[VoteResult] = field(default_factory=list)
    flat: list[FlatResult] = field(default_factory=list)
    stores: list[StoreResult] = field(default_factory=list)
    milvus: list[MilvusResult] = field(default_factory=list)
    ray: list[RayResult] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON, derived ratios included."""
        return {
            "machine": self.machine.model_dump(),
            "bundle": {"generation": self.generation, "entries": self.entries, "dim": self.dim, "k": self.k},
            "engines": [asdict(result) for result in self.engines],
            "index": {**asdict(self.index), "ratio": self.index.ratio} if self.index else None,
            "stages": [{**asdict(result), "cache_over_encode": result.cache_over_encode} for result in self.stages],
            "serve": self.serve.as_dict() if self.serve else None,
            "taught": [asdict(result) for result in self.taught],
            "merged": asdict(self.merged) if self.merged else None,
            "votes": [asdict(result) for result in self.votes],
            "flat": [asdict(result) for result in self.flat],
            "stores": [asdict(result) for result in self.stores],
            "milvus": [result.as_dict() for result in self.milvus],
            "ray": [asdict(result) for result in self.ray],
            "growth": growth(self.stores),
        }

    def write(self, folder: Path) -> list[Path]:
        """bench.json and the plots, into folder."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "bench.json"]
        written[0].write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        if self.stages:
            written.append(folder / "stages.png")
            _plot_stages(self.stages, written[-1])
        if self.serve:
            written.append(folder / "serve.png")
            _plot_serve(self.serve, written[-1])
        if len({result.entries for result in self.stores}) > 1:
            written.append(folder / "stores.png")
            encode = self.stores[0].one_ms / self.stores[0].one_over_encode
            _plot_stores(self.stores, encode, written[-1])
        return written

    def show(self) -> None:
        """Print tables."""
        # Where nobody watches, tables need not fit a narrow screen.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        machine = self.machine
        vectors = ", ".join(machine.vector_extensions) or "no AVX2"
        console.print(
            f"{machine.processor}, {machine.cores} cores ({vectors}), {machine.memory_gb:g} GB, "
            f"reads {machine.read_gb_per_second:g} GB/s; "
            f"generation {self.generation}: {self.entries:,} keys of {self.dim} numbers",
            highlight=False,
        )
        for table in (
            self._engine_table(),
            self._stage_table(),
            self._vote_table(),
            self._taught_table(),
            self._serve_table(),
            self._flat_table(),
            self._store_table(),
            self._milvus_table(),
            self._ray_table(),
        ):
            if table.row_count:
                console.print(table)
        if (m := self.merged) is not None:
            console.print(
                f"{m.base:,} entries, {m.added:,} added beside and {m.removed:,} removed, against one index of what is "
                f"left: the same first class for {m.same_top1:,} of {m.queries:,} queries, "
                f"{m.same_neighbors_percent:.3f} % of the neighbours the same, similarities within "
                f"{m.largest_difference:.1e}",
                highlight=False,
            )
        if self.serve:
            for line in _sentences(self.serve):
                console.print(line, highlight=False)
        for factory, exponent in growth(self.stores).items():
            console.print(f"{factory}: the time of one query grows with entries to the power of {exponent:.2f}")
        if self.index:
            console.print(
                f"index build of {self.index.images:,} images: {self.index.index_images_per_second:,.0f} images/s, "
                f"its embedding {self.index.embed_images_per_second:,.0f}, "
                f"the encoder alone {self.index.encoder_images_per_second:,.0f}: ratios {self.index.ratio:.2f} and "
                f"{self.index.embed_images_per_second / self.index.encoder_images_per_second:.2f}"
            )

    def _milvus_table(self) -> Table:
        table = _table(
            "Milvus, and FAISS here on the same keys with the same effort",
            "index",
            "entries",
            "effort",
            "build, s",
            *(f"{batch} queries, ms" for batch in BATCHES),
            "Milvus over FAISS",
            "same top-1 as exact",
            "similarities within",
            "recall %",
        )
        for r in self.milvus:
            table.add_row(
                r.index,
                f"{r.entries:,}",
                r.effort,
                f"{r.milvus_build_seconds:.1f} / {r.faiss_build_seconds:.1f}",
                *(f"{r.milvus_ms[batch]:.2f} / {r.faiss_ms[batch]:.2f}" for batch in BATCHES),
                " ".join(f"{r.milvus_ms[batch] / r.faiss_ms[batch]:.1f}" for batch in BATCHES),
                f"{r.same_top1:,} of {r.answers:,}",
                f"{r.largest_difference:.1e}",
                f"{r.recall_percent:.1f}",
            )
        return table

    def _ray_table(self) -> Table:
        of = f" of {self.ray[0].images:,} image files" if self.ray else ""
        table = _table(f"embedding{of}", "way", "images/s", "of index", "first file after, s")
        for r in self.ray:
            first = f"{r.first_file_seconds:.1f}" if r.first_file_seconds is not None else ""
            of_index = f"{r.images_per_second / self.ray[0].images_per_second:.2f}"
            table.add_row(r.name, f"{r.images_per_second:,.0f}", of_index, first)
        return table

    def _engine_table(self) -> Table:
        table = _table(
            "engines",
            "engine",
            "one image, ms",
            "batch 32, images/s",
            "speed-up over eager",
            "of bare ONNX Runtime",
            "largest logit difference",
            "same top-1 %",
        )
        for r in self.engines:
            first, bare = self.engines[0], self.engines[2]
            table.add_row(
                r.name,
                f"{r.milliseconds_one:.2f}",
                f"{r.images_per_second_32:,.0f}",
                f"{first.milliseconds_one / r.milliseconds_one:.1f} / "
                f"{r.images_per_second_32 / first.images_per_second_32:.1f}",
                f"{bare.milliseconds_one / r.milliseconds_one:.2f} / "
                f"{r.images_per_second_32 / bare.images_per_second_32:.2f}",
                f"{r.max_logit_difference:.1e}",
                f"{r.same_top1_percent:.2f}",
            )
        return table

    def _stage_table(self) -> Table:
        table = _table(
            "stages, ms an image",
            "batch",
            "decode",
            "encode",
            "search",
            "vote",
            "cache as served",
            "cache / encode",
            "whole",
            "exact sum",
            "exact sum / encode",
        )
        for r in self.stages:
            table.add_row(
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
        return table

    def _serve_table(self) -> Table:
        table = _table(
            "servers, one image a request, ms",
            "server",
            "connections",
            "images/s",
            "p50",
            "p95",
            "p99",
            "answered",
            "failed",
            "sender's cores",
        )
        for server in self.serve.servers if self.serve else []:
            for r in (*server.closed, server.open):
                table.add_row(
                    server.name,
                    str(r.connections) if r.connections else f"open, {r.offered_per_second:,.0f}/s",
                    f"{r.images_per_second:,.0f}",
                    *(f"{ms:.2f}" for ms in (r.p50_ms, r.p95_ms, r.p99_ms)),
                    f"{r.answered:,}",
                    str(r.failures),
                    f"{r.sender_cores:.2f}",
                )
        return table

    def _vote_table(self) -> Table:
        table = _table("vote and mixture, ms a query", "classes", "k", "one", "of 32")
        times = {(r.classes, r.k, r.batch): r.ms for r in self.votes}
        for classes, k in dict.fromkeys((r.classes, r.k) for r in self.votes):
            one, many = times[classes, k, 1], times[classes, k, 32]
            table.add_row(f"{classes:,}", f"{k:,}", f"{one:.3f}", f"{many:.3f}")
        return table

    def _taught_table(self) -> Table:
        columns = (
            *("taught images", "one ms", "of none", "images/s, of 16", "of none"),
            *("one more taught, ms", "of none", "one ms meanwhile", "open, s"),
        )
        table = _table("answers beside taught images", *columns)
        for r in self.taught:
            first = self.taught[0]
            table.add_row(
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
        return table

    def _flat_table(self) -> Table:
        sizes = f" of {self.flat[0].entries:,} x {self.flat[0].dim}" if self.flat else ""
        table = _table(f"flat search{sizes}, ms a query", "batch", "loop", "BLAS")
        for r in self.flat:
            table.add_row(str(r.batch), f"{r.loop_ms:.3f}", f"{r.blas_ms:.3f}")
        return table

    def _store_table(self) -> Table:
        table = _table(
            "stores, search and vote",
            "entries",
            "store",
            "searched",
            "again %",
            "build s",
            "bytes/entry",
            "MB",
            "recall %",
            "changed top-1 %",
            "of the k nearest's %",
            "one ms",
            "of encode",
            "of 32 ms",
            "of encode",
            "over floor",
        )
        for r in self.stores:
            table.add_row(
                f"{r.entries:,}",
                r.factory + (" (auto)" if r.is_auto else ""),
                r.effort,
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
        return table


def _sentences(result: ServeResult) -> list[str]:
    """The ratios."""
    said = [
        f"in-process, batches of {result.batch}: {result.in_process_images_per_second:,.0f} images/s; "
        f"one image: {result.in_process_one_ms:.2f} ms"
    ]
    for server in result.servers:
        ratios = result.ratios(server)
        said.append(
            f"{server.name} ({server.settings}): {ratios['images_per_second_over_in_process']:.2f} of that at "
            f"{COMPARED} connections; p50 at one {ratios['p50_of_one_over_in_process']:.2f} times that of one image"
        )
        if server is not result.servers[0]:
            p99 = (f"{ratios[f'our_p99_over_its_at_{r.connections}']:.2f} at {r.connections}" for r in server.closed)
            said.append(
                f"{result.servers[0].name} answers {ratios['our_images_per_second_over_its']:.2f} times as many "
                f"images/s at {COMPARED} connections; its p99 is {', '.join(p99)} of this"
            )
    said += [
        f"tried: {tried.name} {tried.settings}: {tried.images_per_second:,.0f} images/s at {COMPARED} connections"
        for tried in result.tried
    ]
    return said + [f"{name} is not installed: left out" for name in result.skipped]


def growth(results: list[StoreResult]) -> dict[str, float]:
    """For each store measured at several sizes, the exponent by which one query's time grows with the entries.

    ``auto`` is the store that ``--store auto`` takes at each size, whichever that is.
    """
    lines = _lines(results)
    found = {}
    for name, line in lines.items():
        if len(line) > 1:
            sizes, times = np.log([r.entries for r in line]), np.log([r.one_ms for r in line])
            found[name] = float(np.polyfit(sizes, times, 1)[0])
    return found


def _lines(results: list[StoreResult]) -> dict[str, list[StoreResult]]:
    lines: dict[str, list[StoreResult]] = {}
    for result in sorted(results, key=lambda r: r.entries):
        lines.setdefault(result.factory, []).append(result)
        if result.is_auto:
            lines.setdefault("auto", []).append(result)
    return lines


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _plot_stages(results: list[StageResult], path: Path) -> None:
    with figure(path, "What a second opinion costs beside the first, by batch size") as axes:
        places = np.arange(len(results))
        bottom = np.zeros(len(results))
        for name, label in (("encode_ms", "network"), ("cache_ms", "cache: search, vote and mixture")):
            heights = np.array([getattr(result, name) for result in results])
            axes.bar(places, heights, 0.6, bottom=bottom, label=label)
            bottom += heights
        for place, result in zip(places, results, strict=True):
            axes.annotate(
                f"cache: {100 * result.cache_over_encode:.0f} % of network",
                (place, bottom[place]),
                ha="center",
                va="bottom",
                fontsize=9,
            )
        axes.set_xticks(places, [f"batch {result.batch}" for result in results])
        axes.set_ylabel("ms for an image")
        axes.legend()


def _plot_serve(result: ServeResult, path: Path) -> None:
    with figure(path, "Images a second over HTTP; on the bars, 99 % of waits in ms") as axes:
        places = np.arange(len(result.servers[0].closed))
        width = 0.8 / len(result.servers)
        for i, server in enumerate(result.servers):
            rates = [r.images_per_second for r in server.closed]
            bars = axes.bar(places + (i - (len(result.servers) - 1) / 2) * width, rates, width, label=server.name)
            waits = [f"{r.p99_ms:,.0f}" for r in server.closed]
            axes.bar_label(bars, waits, fontsize=8 if len(result.servers) < 3 else 7)
        axes.axhline(
            result.in_process_images_per_second,
            color="#444444",
            linestyle="--",
            label=f"without HTTP, batches of {result.batch}",
        )
        axes.set_xticks(places, [str(r.connections) for r in result.servers[0].closed])
        axes.set(xlabel="connections", ylabel="images/s")
        axes.margins(y=0.3)
        axes.legend(fontsize=9, loc="upper left", ncols=2)


def _plot_stores(results: list[StoreResult], encode_ms: float, path: Path) -> None:
    lines = {name: line for name, line in _lines(results).items() if len(line) > 1}
    exponents = growth(results)
    with figure(path, "One query alone: search and vote, by number of entries") as axes:
        for (name, line), colour in zip(lines.items(), COLOURS * 3, strict=False):
            axes.plot(
                [r.entries for r in line],
                [r.one_ms for r in line],
                marker="o",
                linewidth=3 if name == "auto" else 1.5,
                color=colour,
                label=f"{name}: entries^{exponents[name]:.2f}",
            )
        axes.axhline(encode_ms, color="#444444", linestyle="--", label="the network itself")
        axes.set(xscale="log", yscale="log", xlabel="entries", ylabel="ms")
        axes.legend(fontsize=9)
