"""What taught entries cost an answer, and whether a merged search is that of one index rebuilt from scratch."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from benchmarks.stages import png
from benchmarks.stores import resized
from secondlook.evaluation.timing import repeated, seconds
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.files import encoder_id
from secondlook.model.cache import Floats, Ints, mix, softmax, vote
from secondlook.model.journal import Journal, NewImage
from secondlook.model.stores.added_keys import FIRST_ID, AddedKeys
from secondlook.model.stores.corrections import REMOVED as GONE
from secondlook.model.stores.corrections import Corrections
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.merged_store import MergedStore

COUNTS = (0, 1_000, 10_000, 50_000)
BATCH = 16
BASE, ADDED, REMOVED = 50_000, 5_000, 1_000
"""Entries of the index that is asked beside one made anew, keys added, and entries removed."""
QUERIES_AT_ONCE = 500


@dataclass(frozen=True)
class TaughtResult:
    """Predictions beside so many taught images."""

    images: int
    one_ms: float
    """Median of one image alone."""
    images_per_second: float
    """In batches of 16."""
    teach_ms: float
    """Median of teaching one more image: embedded, kept on the disk, and a predictor that knows it."""
    meanwhile_ms: float
    """Median of one image alone while others are taught without a pause."""
    open_s: float
    """Until a generation that is opened answers with all of them."""


@dataclass(frozen=True)
class MergedResult:
    """A base of entries with some added beside and some removed, against one flat index of what is left."""

    base: int
    added: int
    removed: int
    queries: int
    same_top1: int
    """Queries whose mixture names the same class first."""
    same_neighbors_percent: float
    """Of the k nearest of all queries, those that both find."""
    largest_difference: float
    """Of a similarity."""


def taught(bundle: Bundle, images: NDArray[np.uint8], for_seconds: float = 2.0) -> list[TaughtResult]:
    """Predict images (N,height,width,3) with more and more taught: keys a little off those of entries, same labels."""
    keys, values = next(iter(bundle.store.chunks()))
    many, of = resized(keys, values, len(keys) + 2 * max(COUNTS))
    more, labels = many[len(keys) :], [bundle.manifest.classes[value] for value in of[len(keys) :: 2]]
    return [_beside(bundle, images, more, labels[:count], for_seconds) for count in COUNTS]


def _beside(
    bundle: Bundle, images: NDArray[np.uint8], keys: Floats, labels: list[str], for_seconds: float
) -> TaughtResult:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for label, some in _new(bundle, images, keys, labels):
            journal.add(label, some, "bench", known=bundle.manifest.classes)
        opened: list[Predictor] = []
        open_s = seconds(lambda: opened.append(Predictor(bundle, replayed(Overlay(bundle), journal))))
        predictor, at = opened[0], iter(range(10**9))
        one = repeated(lambda: _predict(predictor, images, next(at), 1), for_seconds, 50)
        batch = repeated(lambda: _predict(predictor, images, BATCH * next(at), BATCH), for_seconds)
        follower = JournalFollower(journal)
        times = repeated(lambda: _teach(journal, follower, opened, images), for_seconds, 50)
        meanwhile = _meanwhile(journal, follower, opened, images, for_seconds)
    return TaughtResult(
        len(labels),
        1000 * float(np.median(one)),
        BATCH / float(np.mean(batch)),
        1000 * float(np.median(times)),
        1000 * float(np.median(meanwhile)),
        open_s,
    )


def _new(
    bundle: Bundle, images: NDArray[np.uint8], keys: Floats, labels: list[str]
) -> Iterator[tuple[str, list[NewImage]]]:
    """Images to teach under each label, with keys made already: an image's own and that of its mirrored copy."""
    encoder = encoder_id(bundle.manifest)
    content = [png(image) for image in images[:100]]
    for label in sorted(set(labels)):
        places = [i for i, of in enumerate(labels) if of == label]
        made = ({(encoder, False): keys[2 * i], (encoder, True): keys[2 * i + 1]} for i in places)
        yield label, [NewImage("a.png", content[i % 100], own) for i, own in zip(places, made, strict=True)]


def _teach(journal: Journal, follower: JournalFollower, opened: list[Predictor], images: NDArray[np.uint8]) -> None:
    """As a server does: the thread that computes makes the keys, and later the predictor that knows of them."""
    before = opened[-1]
    image = images[next(_numbers) % len(images)]
    seen = np.stack((image, image[:, ::-1]))
    keys = before.bundle.engine.encode(seen).keys
    _keep(journal, before.bundle, image, keys)
    opened[:] = [follower.renew(before, False)]


def _keep(journal: Journal, bundle: Bundle, image: NDArray[np.uint8], keys: Floats) -> None:
    known, encoder = bundle.manifest.classes, encoder_id(bundle.manifest)
    made = {(encoder, False): keys[0], (encoder, True): keys[1]}
    journal.add(known[0], [NewImage("a.png", png(image), made)], "bench", known=known)


_numbers = itertools.count()


def _meanwhile(
    journal: Journal,
    follower: JournalFollower,
    opened: list[Predictor],
    images: NDArray[np.uint8],
    for_seconds: float,
) -> list[float]:
    """Times of predictions, each with all that was taught before it, while another thread keeps images."""
    stop, bundle = Event(), opened[-1].bundle
    keys = bundle.engine.encode(images[:2]).keys

    def keep() -> None:
        while not stop.is_set():
            _keep(journal, bundle, images[next(_numbers) % len(images)], keys)

    def ask() -> None:
        opened[:] = [follower.renew(opened[-1], False)]
        _predict(opened[-1], images, next(_numbers), 1)

    with ThreadPoolExecutor(1) as pool:
        keeping = pool.submit(keep)
        try:
            return repeated(ask, for_seconds, 50)
        finally:
            stop.set()
            keeping.result()


def _predict(predictor: Predictor, images: NDArray[np.uint8], start: int, count: int) -> None:
    start %= len(images) - count
    predictor.predict(images[start : start + count], [predictor.defaults] * count)


def merged(bundle: Bundle, train: Dataset, test: Dataset, progress: Progress = silent) -> MergedResult:
    """Add keys of mirrored training images beside a flat index, remove some of its own, ask with all test images."""
    manifest, k = bundle.manifest, bundle.manifest.k or 200
    count = min(BASE, len(train.labels))
    added, removed = ADDED * count // BASE, REMOVED * count // BASE
    cached = embed_queries(train, np.arange(count), bundle, progress)
    keys, values = cached.keys, cached.labels
    more = _mirrored(bundle, train, added)
    queries = embed_queries(test, np.arange(len(test.labels)), bundle, progress)
    asked = queries.keys
    random = np.random.default_rng(0)
    gone = np.sort(random.permutation(count)[:removed])
    ids = FIRST_ID + 2 * np.arange(added)
    laid = MergedStore(
        FaissStore.build(keys, values),
        AddedKeys.of(ids, values[:added], more),
        Corrections().changed(dict.fromkeys(gone.tolist(), GONE)),
        np.arange(len(manifest.classes)),
    )
    kept = np.setdiff1d(np.arange(count), gone)
    whole = FaissStore.build(np.concatenate((keys[kept], more)), np.concatenate((values[kept], values[:added])))
    names = np.concatenate((kept, ids))
    network, same, shared, difference = softmax(queries.logits, len(manifest.classes)), 0, 0, 0.0
    for start in range(0, len(asked), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        ours, theirs = laid.search(asked[rows], k), whole.search(asked[rows], k)
        answers = [
            mix(network[rows], vote(f.similarities, f.values, manifest.theta, network.shape[1]), manifest.lam)
            for f in (ours, theirs)
        ]
        same += int((answers[0].argmax(axis=1) == answers[1].argmax(axis=1)).sum())
        difference = max(difference, float(np.abs(ours.similarities - theirs.similarities).max()))
        shared += sum(map(_shared, ours.ids, names[theirs.ids]))
        progress("merged", min(start + QUERIES_AT_ONCE, len(asked)), len(asked))
    return MergedResult(count, added, removed, len(asked), same, 100 * shared / (len(asked) * k), difference)


def _shared(ours: Ints, theirs: Ints) -> int:
    return len(np.intersect1d(ours, theirs))


def _mirrored(bundle: Bundle, dataset: Dataset, count: int) -> Floats:
    found = []
    for start in range(0, count, 64):
        images = np.stack([dataset.read(i, bundle.geometry) for i in range(start, min(count, start + 64))])
        found.append(bundle.engine.encode(np.ascontiguousarray(images[:, :, ::-1])).keys)
    return np.concatenate(found)
