"""Whether sets and credibility hold what they promise, on images that nothing was fitted on, while the cache changes.

The bundle as it is; with new classes taught, an image each; the same folded in by a new index; and with many of its
entries removed. What is asked is what a server answers with then, calibrated as a server calibrates.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.served import answers_of
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.indexer.datasets.left_out import LeftOut
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.encoders import FromBundle, PreparedEncoder
from secondlook.indexer.embedding.entries import EmbeddedEntries, embed_entries
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.fitting.added import calibrate_with_added
from secondlook.indexer.index import Gather, IndexOptions, index
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import highest_score, p_value, rank_for
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.root import active_generation
from secondlook.model.cache import Floats
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.images import Geometry
from secondlook.model.intervals import Interval, wilson
from secondlook.model.journal import SOURCE
from secondlook.model.manifest import Calibration

COVERAGES = (0.9, 0.95, 0.99)
P_VALUE = 0.05
CLASSES = 40
"""Taught, an image each."""
REMOVED = 20_000
"""Entries, or a fifth where there are fewer than five times as many."""
DRAWS = 100_000
LEVEL = 0.95


@dataclass(frozen=True)
class Promise:
    """One promise, and how it was kept."""

    asked: float
    got: Interval
    """With a 95 % interval of the measured images."""
    expected: tuple[float, float]
    """Between which shares it is 19 times of 20 where the promise is kept, with a holdout and as many images as here.
    """

    @property
    def is_kept(self) -> bool:
        """Whether it is between those."""
        return self.expected[0] <= self.got.value <= self.expected[1]


@dataclass(frozen=True)
class Case:
    """A state of the cache."""

    name: str
    calibrated_on: int
    sets: tuple[Promise, ...]
    """Share of sets that hold the right label."""
    p_values: Promise
    """Share of the right labels whose credibility is at most 5 %."""
    stale: float
    """The same share by the calibration from before the change."""
    error_percent: float


@dataclass(frozen=True)
class Promises:
    """What ``promises`` measured."""

    dataset: str
    images: int
    cases: tuple[Case, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """One: a state a row."""

        def told(promise: Promise) -> str:
            low, high = promise.expected
            return (
                f"{100 * promise.got.value:.2f} ({100 * low:.2f} to {100 * high:.2f}"
                f"{'' if promise.is_kept else ', missed'})"
            )

        return [
            Table(
                f"promises kept on {self.dataset}, {self.images:,} images",
                (
                    "cache",
                    *(f"sets of {100 * c:g} % hold it %" for c in COVERAGES),
                    f"credibility of right labels <= {100 * P_VALUE:g} %",
                    "not calibrated anew",
                    "error %",
                ),
                tuple(
                    (
                        case.name,
                        *map(told, case.sets),
                        told(case.p_values),
                        f"{100 * case.stale:.2f}",
                        f"{case.error_percent:.2f}",
                    )
                    for case in self.cases
                ),
                "in brackets where a kept promise lies 19 times of 20; sets are made to hold in nine holdouts of ten",
            )
        ]

    def figures(self) -> list[Figure]:
        """None."""
        return []


def promises(root: Path, data_root: Path | None, new: str, progress: Progress = silent) -> Promises:
    """Measure a root's active bundle on its dataset's test images, with classes of the dataset ``new`` taught.

    Raises:
        BundleError: the bundle is not calibrated.
        DatasetError: the datasets are not there, or do not fit.
    """
    generation = active_generation(root)
    bundle = open_bundle(root, generation)
    manifest = bundle.manifest
    if manifest.calibration is None or manifest.calibration.sets is None:
        raise BundleError(f"bundle {generation} has no calibration of its doubt: secondlook fit --holdout makes one")
    test = of_bundle(load(manifest.dataset.name, "test", data_root), manifest)
    train = of_bundle(load(manifest.dataset.name, manifest.dataset.split, data_root), manifest)
    if train.content_hash() != manifest.dataset.sha256:
        raise DatasetError(f"{train.name} ({train.split}) is not the dataset that generation {generation} caches")
    asked = embed_queries(test, np.arange(len(test.labels)), bundle, progress)
    newer = _one_of_each(load(new, "train", data_root), manifest.classes, bundle.geometry)
    random = np.random.default_rng(0)
    count = min(REMOVED, bundle.store.count // 5)
    removed = random.permutation(bundle.store.count)[:count]
    taught = Overlay(bundle).changed(
        1, b"", labels=dict(enumerate(newer.names)), images=_added(bundle, newer), corrections={}
    )
    cases = [
        _case("as it is", bundle, Overlay(bundle), asked, progress),
        _case(f"{len(newer.names)} classes taught", bundle, taught, asked, progress),
    ]
    with tempfile.TemporaryDirectory() as folder:
        longer = _longer(train, newer)
        made = index(longer, Path(folder), FromBundle(root), IndexOptions(), progress, _collected(bundle))
        folded = open_bundle(Path(folder), made)
        cases.append(_case("these folded in", folded, Overlay(folded), asked, progress, manifest.calibration))
    less = Overlay(bundle).changed(1, b"", labels={}, images={}, corrections=dict.fromkeys(removed.tolist()))
    cases.append(_case(f"{count:,} entries removed", bundle, less, asked, progress))
    return Promises(f"{test.name} {test.split}", len(asked.labels), tuple(cases))


def _case(
    name: str,
    bundle: Bundle,
    overlay: Overlay,
    asked: EmbeddedQueries,
    progress: Progress,
    before: Calibration | None = None,
) -> Case:
    """Answers as they are served by an overlay, held to its calibration."""
    calibration = calibrate_with_added(bundle, overlay)
    assert calibration is not None
    assert calibration.sets is not None
    assert calibration.credibility is not None
    before = before or bundle.manifest.calibration
    assert before is not None
    assert before.credibility is not None
    _, cache, mixed = answers_of(overlay, asked, calibration, progress, name)
    right, votes = (said[np.arange(len(said)), asked.labels].astype(np.float64) for said in (mixed, cache))
    count, held = len(right), calibration.sets.images
    sets = []
    for coverage in COVERAGES:
        rank = rank_for(held, coverage)
        inside = int((1.0 - right <= highest_score(calibration.sets, coverage)).sum())
        # Of all that might have been drawn, nine holdouts of ten hold more than was asked for.
        sets.append(Promise(coverage, wilson(inside, count), expected_share(rank, held, count)))
    low, stale = (
        int(sum(p_value(of, 1.0 - vote) <= P_VALUE for vote in votes.tolist()))
        for of in (calibration.credibility, before.credibility)
    )
    at = int(np.floor(P_VALUE * (held + 1)))
    return Case(
        name,
        held,
        tuple(sets),
        Promise(P_VALUE, wilson(low, count), expected_share(at, held, count)),
        stale / count,
        100 * float((mixed.argmax(axis=1) != asked.labels).mean()),
    )


def expected_share(rank: int, held: int, count: int) -> tuple[float, float]:
    """Between which shares of count images lie at or below the rank-th of held scores, 19 times of 20.

    Of images like those of the holdout, the share is a draw of Beta(rank, held + 1 - rank), and so many of these are.
    """
    random = np.random.default_rng(0)
    if rank > held:
        return 1.0, 1.0
    if rank < 1:
        return 0.0, 0.0
    shares = random.binomial(count, random.beta(rank, held + 1 - rank, DRAWS)) / count
    low, high = np.quantile(shares, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True)
class _New:
    """An image of each of some new classes."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]


def _one_of_each(dataset: Dataset, known: tuple[str, ...], geometry: Geometry) -> _New:
    names = [(label, name) for label, name in enumerate(dataset.classes) if name not in known][:CLASSES]
    if not names:
        raise DatasetError(f"{dataset.name} has no classes that the bundle does not know")
    images = [dataset.read(int(np.flatnonzero(dataset.labels == label)[0]), geometry) for label, _ in names]
    return _New(tuple(name for _, name in names), np.stack(images))


def _added(bundle: Bundle, new: _New) -> dict[int, tuple[str, dict[bool, Floats]]]:
    """Taught images as an overlay takes them: label, and keys (D,) by whether the copy is mirrored, by number."""
    keys = {False: bundle.engine.encode(new.images).keys}
    if bundle.manifest.dataset.mirrored:
        keys[True] = bundle.engine.encode(np.ascontiguousarray(new.images[:, :, ::-1])).keys
    return {
        number: (name, {mirrored: made[number - 1] for mirrored, made in keys.items()})
        for number, name in enumerate(new.names, start=1)
    }


def _longer(dataset: Dataset, new: _New) -> Dataset:
    """A dataset with an image of each of some new classes after it, as taught images are folded in."""
    count, classes = len(dataset.labels), (*dataset.classes, *new.names)
    return DerivedDataset.of(
        dataset,
        classes=classes,
        labels=np.concatenate((dataset.labels, np.arange(len(dataset.classes), len(classes)))),
        left_out=LeftOut(),
        read=lambda index, how: dataset.read(index, how) if index < count else new.images[index - count],
        source=lambda index: dataset.source(index) if index < count else f"{SOURCE}{index - count + 1}",
    )


def _collected(bundle: Bundle) -> Gather:
    """The entries that a bundle has, as its store keeps them, and those of images behind them: embeds few."""

    def gather(dataset: Dataset, encoder: PreparedEncoder, _: KeptFeatures, progress: Progress) -> EmbeddedEntries:
        position_of = {dataset.source(i): i for i in range(len(dataset.labels))}
        sources = bundle.entries.sources()
        positions = np.array([position_of[source] for source in sources])
        first: dict[int, int] = {}
        mirrored = np.array([first.setdefault(int(at), row) != row for row, at in enumerate(positions)])
        new = np.setdiff1d(np.arange(len(dataset.labels)), positions)
        more = embed_entries(dataset, new, encoder, progress, mirror=bool(mirrored.any()), thumbnails=False)
        order = positions[~mirrored]
        looks = []
        for indices, images in batches(dataset, order, encoder.geometry, BATCH):
            looks.append(Looks.of(images))
            progress("looks", sum(map(len, looks)), len(order))
            assert len(indices) == len(images)
        held = order[np.isin(order, dataset.holdout())]
        logits = embed_queries(dataset, held, encoder, progress).logits
        nothing = np.full(len(positions), -1)
        return replace(
            more,
            keys=np.concatenate([*(keys for keys, _ in bundle.store.chunks()), more.keys]),
            positions=np.concatenate((positions, more.positions)),
            mirrored=np.concatenate((mirrored, more.mirrored)),
            logits=logits,
            sheet=np.concatenate((nothing, more.sheet)),
            place=np.concatenate((np.zeros_like(nothing), more.place)),
            looks=Looks.joined([*looks, more.looks]),
        )

    return gather
