"""A cache of ImageNet's size on one machine, of real keys: ``python -m benchmarks.at_size``.

CIFAR-100's 50,000 training images, each moved in 13 ways (``moved_images``) and mirrored, are 1.3 million entries; a
ResNet-32 gives keys of 512 numbers. Every other test image is fitted on, the others are asked: of neither has network
or cache seen anything, moved or not.

Three parts, each of which writes its figures into the folder before the next begins:

- **index**: what ``index`` takes of memory, time and disk. What was embedded is kept: the same
  command, given again, goes on.
- **serve**: a server of that: its start and memory; in this process its search, and its answers beside those of a
  search of all keys as they were embedded.
- **sizes**: stores of a sample of the keys, of more and of all: build, bytes, search, answers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.index_memory import Watch
from benchmarks.moved_images import WAYS, halves, moved_images, shuffled
from benchmarks.processor_time import processor_seconds, resident_bytes
from benchmarks.serve import ServerError, ask
from benchmarks.size_report import size_figure, size_tables
from benchmarks.stages import png
from benchmarks.stores import StoreResult, stores
from benchmarks.tables import store_table
from secondlook.evaluation.machine import machine
from secondlook.evaluation.timing import seconds
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.embedding.encoders import FromBundle, PreparedEncoder
from secondlook.indexer.embedding.entries import EmbeddedEntries, embed_entries
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.memory import index_memory
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import console
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.model.answering.doubt import own_evidence
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import ENCODER, KEYS, VALUES, read_manifest
from secondlook.model.bundles.root import CURRENT, activate, active_generation
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.networks.engines import Encoding
from secondlook.model.networks.openvino_engine import OpenVinoEngine
from secondlook.model.networks.recipe import Recipe
from secondlook.model.scoring import error_percent
from secondlook.model.stores.factory import lists_of
from secondlook.model.stores.store import ExactStore

RECIPE = Recipe(
    layers=("stage3.block1", "stage3.block3.inner", "stage3.block4"), reduce=448, extra="pool", extra_weight=0.5
)
"""512 numbers of a CIFAR ResNet-32: the paper's three layers reduced, and the pooled last features."""
FIRST = 10_000
"""Images that the encoder is made with."""
SIZES = (10_000, 100_000)
"""Entries at which stores are measured, before all of them."""
CANDIDATES = ("IVF*,SQ8", "IVF*,PQ*x4fs,Refine(SQ8)", "HNSW32,SQ8")
"""Stores that are measured; * = as many lists as auto makes, and a group for every two numbers."""
QUERIES = 1000
"""Images that stores are tuned on, and as many that they are asked."""
ASKED_FIRST = 200
"""Images that a server is asked before its memory is looked at."""
START_SECONDS = 300.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and where."""

    folder: Path
    data_root: Path
    network: Path
    images: int | None
    ways: int
    store: str
    bfloat16: bool
    seconds: float

    @property
    def first(self) -> Path:
        """The root of the bundle whose encoder all are embedded with."""
        return self.folder / "first"

    @property
    def root(self) -> Path:
        """The root of the large one."""
        return self.folder / "bundles"

    @cached_property
    def keys(self) -> Floats:
        """(N,D) as they were embedded."""
        keys: Floats = np.load(self.folder / KEPT_KEYS, mmap_mode="r")
        return keys

    @cached_property
    def values(self) -> Ints:
        """(N,) of them."""
        values: Ints = np.load(self.root / active_generation(self.root) / VALUES).astype(np.int64)
        return values


KEPT_KEYS = "keys.npy"


def make_encoder(plan: Plan) -> None:
    """Make a bundle of some images: the projection of keys is fitted, and the encoder exported."""
    options = IndexOptions(holdout=halves(plan.data_root)[0], trained="yes", thumbnails=False)
    dataset = moved_images(shuffled(load("cifar100", "train", plan.data_root), FIRST), 1)
    activate(plan.first, index(dataset, plan.first, FromCifar(plan.network, RECIPE), options))


def measure_index(plan: Plan) -> dict[str, Any]:
    """Index, and say what that took; the keys as embedded stay in the folder."""
    if not (plan.first / CURRENT).exists():
        # In a process of its own: PyTorch is no part of what is measured.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(make_encoder, plan).result()
    dataset = moved_images(shuffled(load("cifar100", "train", plan.data_root), plan.images), plan.ways)
    options = IndexOptions(store=plan.store, mirror=True, holdout=halves(plan.data_root)[0], trained="yes")

    def gather(dataset: Dataset, encoder: PreparedEncoder, kept: KeptFeatures, progress: Progress) -> EmbeddedEntries:
        if plan.bfloat16:
            path = plan.first / active_generation(plan.first) / ENCODER
            encoder = PreparedEncoder(**{**vars(encoder), "engine": OpenVinoEngine(path, precision="bf16")})
        everything = np.arange(len(dataset.labels))
        found = embed_entries(
            *(dataset, everything, encoder, progress), mirror=True, thumbnails=True, kept=kept, folder=plan.root
        )
        np.save(plan.folder / KEPT_KEYS, found.keys)
        return found

    with Watch().running() as watch:
        generation = index(dataset, plan.root, FromBundle(plan.first), options, _told(watch), gather)
    activate(plan.root, generation)
    manifest = read_manifest(plan.root, generation)
    found, steps = manifest.approximation_error, list(watch.steps.values())
    return {
        "entries": manifest.store.count,
        "dim": manifest.store.dim,
        "store": manifest.store.factory,
        "search": manifest.store.search.model_dump(exclude_none=True) if manifest.store.search else None,
        "theta": manifest.theta,
        "lam": manifest.lam,
        "k": manifest.k,
        "holdout": manifest.holdout.images if manifest.holdout else 0,
        "changed_top1_percent": None if found is None else found.changed_top1_percent,
        "said_bytes": index_memory(
            manifest.store.count, manifest.store.dim, manifest.store.factory, len(dataset.classes)
        ),
        "before_bytes": watch.before,
        "peak_bytes": watch.before + max(step.peak_bytes for step in steps),
        "files": {path.name: path.stat().st_size for path in (plan.root / generation).iterdir()},
        "steps": [asdict(step) for step in steps],
    }


def measure_server(plan: Plan) -> dict[str, Any]:
    """Start a server of the bundle, ask it, and see what it takes; then ask the bundle in this process."""
    asked = halves(plan.data_root)[1]
    bundle = open_bundle(plan.root)
    images, positions = read_all(asked, bundle.geometry)
    labels = asked.labels[positions]
    start, start_cpu, resident = _serve(plan.root, [png(image) for image in images[:ASKED_FIRST]])
    predictor = Predictor(bundle)
    theta, lam, k = asking = predictor.defaults
    batches = [images[first : first + 64] for first in range(0, len(images), 64)]
    answers = [one for batch in batches for one in predictor.predict(batch, [asking] * len(batch))]
    told = [one for one in answers if isinstance(one, Answer)]
    mixed, cache, network = (np.stack([getattr(one, name) for one in told]) for name in ("mixed", "cache", "network"))
    encoded = [bundle.engine.encode(batch) for batch in batches]
    logits, keys = (np.concatenate(part) for part in zip(*encoded, strict=True))
    novelty = bundle.manifest.calibration.novelty if bundle.manifest.calibration else None
    own = own_evidence(novelty, logits, network, keys, bundle.directions)

    def search(row: int) -> None:
        one = slice(row, row + 1)
        predictor.served.search_and_vote(keys[one], network[one], asking, novelty, own[one])

    used = time.process_time()
    times = [seconds(partial(search, row)) for row in range(len(keys))]
    used = time.process_time() - used
    exact = ServedCache(ExactStore(plan.keys, plan.values), len(bundle.manifest.classes))
    found = nearest_entries(exact, keys, k or predictor.served.count)
    exact_cache = exact.vote(found.similarities, found.values, theta)
    exact_mixed = mix(softmax(logits), exact_cache, lam)
    size = (bundle.path / KEYS).stat().st_size
    return {
        "store_bytes": size,
        "start_seconds": start,
        "start_cpu_seconds": start_cpu,
        "resident_bytes": resident,
        "resident_over_store": resident / size,
        "images": len(told),
        "search_ms": 1000 * float(np.mean(times)),
        "search_processor_ms": 1000 * used / len(times),
        "search_p50_ms": 1000 * float(np.median(times)),
        "search_p99_ms": 1000 * float(np.quantile(times, 0.99)),
        "same_top1_percent": 100 * float((mixed.argmax(1) == exact_mixed.argmax(1)).mean()),
        "cache_same_top1_percent": 100 * float((cache.argmax(1) == exact_cache.argmax(1)).mean()),
        "network_error_percent": error_percent(network, labels),
        "mixed_error_percent": error_percent(mixed, labels),
        "cache_error_percent": error_percent(cache, labels),
        "exact_mixed_error_percent": error_percent(exact_mixed, labels),
        "exact_cache_error_percent": error_percent(exact_cache, labels),
    }


def measure_sizes(plan: Plan) -> dict[str, Any]:
    """Measure stores of more and more of the keys."""
    bundle = open_bundle(plan.root)
    parts = [read_all(half, bundle.geometry)[0][:QUERIES] for half in halves(plan.data_root)]
    images = np.concatenate(parts)
    encoded = [bundle.engine.encode(images[first : first + 64]) for first in range(0, len(images), 64)]
    queries = Encoding(*(np.concatenate(part) for part in zip(*encoded, strict=True)))
    parameters, here = Predictor(bundle).defaults, machine()
    found: list[StoreResult] = []
    count, dim = plan.keys.shape
    for entries in (*(size for size in SIZES if size < count), count):
        lists = f"IVF{lists_of(entries)}"
        factories = [name.replace("IVF*", lists).replace("PQ*", f"PQ{dim // 2}") for name in CANDIDATES]
        found += stores(
            *(plan.keys[:entries], plan.values[:entries], queries, tuple(factories), parameters, (1.0, 1.0)),
            *(here.read_gb_per_second * 1e9, plan.seconds, _told(lambda *_: None)),
        )
    return {"machine": here.model_dump(), "stores": [asdict(one) for one in found]}


def _serve(root: Path, files: list[bytes]) -> tuple[float, float, int]:
    """Seconds until a server answers its first image, and those of the processor; and its memory, once it answered all.

    Raises:
        ServerError: it does not start, or cannot answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "secondlook", "serve"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--bundles", str(root), "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _is_answered(url, files[0]):
            if process.poll() is not None or time.perf_counter() > began + START_SECONDS:
                raise ServerError("the server does not start")
            time.sleep(0.02)
        took, cpu = time.perf_counter() - began, processor_seconds(process.pid)
        if any(not _is_answered(url, file) for file in files):
            raise ServerError("the server does not answer")
        return took, cpu, resident_bytes(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _is_answered(url: str, file: bytes) -> bool:
    try:
        return ask(url, file)[0] == 200
    except OSError:
        return False


def _told(progress: Progress) -> Progress:
    """The same, with a line on standard error for each hundredth of a step."""
    last = ("", -1)

    def say(stage: str, done: int, total: int) -> None:
        nonlocal last
        progress(stage, done, total)
        if (now := (stage, 100 * done // max(1, total))) != last:
            last = now
            click.echo(f"{time.strftime('%H:%M:%S')} {stage} {done:,} of {total:,}", err=True)

    return say


PARTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "index": measure_index,
    "serve": measure_server,
    "sizes": measure_sizes,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where bundles, keys and figures lie: 12 GB for all images.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="SECONDLOOK_DATA",
    show_envvar=True,
    required=True,
    help="Where cifar100 lies.",
)
@click.option(
    "--network",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="A ResNet-32 for CIFAR-100, as secondlook train or import-keras write it.",
)
@click.option("--part", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Only this; may be repeated.")
@click.option("--images", type=click.IntRange(100), help="Of the training images; all of them where it is not given.")
@click.option("--ways", type=click.IntRange(1, WAYS), default=WAYS, show_default=True, help="An image is moved in.")
@click.option("--store", default="auto", show_default=True, help="As for index.")
@click.option("--bfloat16", is_flag=True, help="Embed what is cached by OpenVINO in bfloat16.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, help="Spent on a time taken."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    folder: Path,
    data_root: Path,
    network: Path,
    parts: tuple[str, ...],
    images: int | None,
    ways: int,
    store: str,
    bfloat16: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Index CIFAR-100 made as large as ImageNet, serve it, and measure stores of its keys by size."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(folder, data_root, network, images, ways, store, bfloat16, seconds)
    figures = folder / "at-size.json"
    found: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    for part in parts or PARTS:
        found[part] = PARTS[part](plan)
        figures.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)
    if "sizes" in found:
        size_figure([StoreResult(**one) for one in found["sizes"]["stores"]]).write(folder / "at-size.png")


def show(found: dict[str, Any]) -> None:
    """Print the tables of the parts that there are."""
    for table in size_tables(found):
        console().print(table.rich())
    if "sizes" in found:
        console().print(store_table([StoreResult(**one) for one in found["sizes"]["stores"]]).rich())


if __name__ == "__main__":
    main()
