"""Everything that one run measured: as data, as tables, and as plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.backbones import BackboneResult
from benchmarks.decoding import DecodingResult
from benchmarks.engines import EngineResult
from benchmarks.index_build import IndexResult
from benchmarks.milvus import MilvusResult
from benchmarks.network import NetworkResult
from benchmarks.on_ray import RayResult
from benchmarks.served import ServeResult
from benchmarks.stages import StageResult
from benchmarks.stores import FlatResult, StoreResult
from benchmarks.taught import MergedResult, TaughtResult
from benchmarks.votes import VoteResult
from secondlook.evaluation.machine import Machine
from secondlook.indexer.results import Figure, Table, show


@dataclass
class Report:
    """A study of what things cost; parts that were not asked for are empty."""

    machine: Machine
    generation: str
    entries: int
    dim: int
    k: int | None
    engines: list[EngineResult] = field(default_factory=list)
    network: list[NetworkResult] = field(default_factory=list)
    index: IndexResult | None = None
    stages: list[StageResult] = field(default_factory=list)
    serve: ServeResult | None = None
    taught: list[TaughtResult] = field(default_factory=list)
    merged: MergedResult | None = None
    votes: list[VoteResult] = field(default_factory=list)
    flat: list[FlatResult] = field(default_factory=list)
    stores: list[StoreResult] = field(default_factory=list)
    decoding: list[DecodingResult] = field(default_factory=list)
    backbones: list[BackboneResult] = field(default_factory=list)
    milvus: list[MilvusResult] = field(default_factory=list)
    ray: list[RayResult] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, derived ratios included."""
        return {
            "machine": self.machine.model_dump(),
            "bundle": {"generation": self.generation, "entries": self.entries, "dim": self.dim, "k": self.k},
            "engines": [asdict(result) for result in self.engines],
            "network": [result.as_dict() for result in self.network],
            "index": {**asdict(self.index), "ratio": self.index.ratio} if self.index else None,
            "stages": [{**asdict(result), "cache_over_encode": result.cache_over_encode} for result in self.stages],
            "serve": self.serve.as_dict() if self.serve else None,
            "taught": [asdict(result) for result in self.taught],
            "merged": asdict(self.merged) if self.merged else None,
            "votes": [asdict(result) for result in self.votes],
            "flat": [asdict(result) for result in self.flat],
            "stores": [asdict(result) for result in self.stores],
            "decoding": [asdict(result) for result in self.decoding],
            "backbones": [result.as_dict() for result in self.backbones],
            "milvus": [result.as_dict() for result in self.milvus],
            "ray": [asdict(result) for result in self.ray],
            "growth": plots.growth(self.stores),
        }

    def tables(self) -> list[Table]:
        """One for each part."""
        parts: list[tuple[Callable[[Any], Table], Any]] = [
            (tables.engine_table, self.engines),
            (tables.network_table, self.network),
            (tables.stage_table, self.stages),
            (tables.vote_table, self.votes),
            (tables.taught_table, self.taught),
            (tables.serve_table, self.serve),
            (tables.flat_table, self.flat),
            (tables.store_table, self.stores),
            (tables.decoding_table, self.decoding),
            (tables.backbone_table, self.backbones),
            (tables.milvus_table, self.milvus),
            (tables.ray_table, self.ray),
        ]
        return [make(results) for make, results in parts if results]

    def figures(self) -> list[Figure]:
        """Stages, servers, and stores where there is more than one size of them."""
        found = [plots.stage_figure(self.stages)] if self.stages else []
        found += [plots.serve_figure(self.serve)] if self.serve else []
        found += [plots.store_figure(self.stores)] if len({result.entries for result in self.stores}) > 1 else []
        return found

    def write(self, folder: Path) -> list[Path]:
        """bench.json and the plots, into folder."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "bench.json"]
        written[0].write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        for figure in self.figures():
            written.append(folder / f"{figure.name}.png")
            figure.write(written[-1])
        return written

    def show(self) -> None:
        """Print tables, and what is said in sentences."""
        machine = self.machine
        vectors = ", ".join(machine.vector_extensions) or "no AVX2"
        print(
            f"{machine.processor}, {machine.cores} cores ({vectors}), {machine.memory_gb:g} GB, "
            f"reads {machine.read_gb_per_second:g} GB/s; "
            f"generation {self.generation}: {self.entries:,} keys of {self.dim} numbers",
            flush=True,
        )
        show(self)
        for sentence in self._sentences():
            print(sentence)

    def _sentences(self) -> Iterator[str]:
        if (m := self.merged) is not None:
            yield (
                f"{m.base:,} entries, {m.added:,} added beside and {m.removed:,} removed, against one index of what is "
                f"left: the same first class for {m.same_top1:,} of {m.queries:,} queries, "
                f"{m.same_neighbors_percent:.3f} % of the neighbours the same, similarities within "
                f"{m.largest_difference:.1e}"
            )
        if self.serve:
            yield from tables.serve_sentences(self.serve)
        for factory, exponent in plots.growth(self.stores).items():
            yield f"{factory}: the time of one query grows with entries to the power of {exponent:.2f}"
        if self.index:
            yield (
                f"index build of {self.index.images:,} images: {self.index.index_images_per_second:,.0f} images/s, "
                f"its embedding {self.index.embed_images_per_second:,.0f}, "
                f"the encoder alone {self.index.encoder_images_per_second:,.0f}: ratios {self.index.ratio:.2f} and "
                f"{self.index.embed_images_per_second / self.index.encoder_images_per_second:.2f}"
            )
