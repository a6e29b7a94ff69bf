"""How much of what a cache can gain is kept by the parameters that are fitted, with an honest holdout and without one.

The most that it can gain is that of the best cell of the whole grid on the test images themselves, which nobody may
choose by. Without a holdout, parameters come from cached images alone, as for a network that was trained on them. With
one, each half of the test images is answered with the parameters fitted on the other half.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.evaluation.evaluate import Quality
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.embedding.entries import embed_entries
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.fitting.cache import fit_cache
from secondlook.indexer.fitting.honest_holdout import TrainedOn, expected_errors, tenth_as_holdout
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.fitting.parameters import KS, FittedParameters, choose_parameters
from secondlook.indexer.new_entries import NewEntries
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.store import Neighbors


@dataclass(frozen=True)
class Way:
    """One way to choose parameters, and what the mixture then comes to on the test images."""

    parameters: tuple[Parameters, ...]
    measured: Quality
    kept_percent: float
    """Of the gain of the best cell."""


@dataclass(frozen=True)
class Row:
    """One network with its cache."""

    name: str
    images: int
    entries: int
    network: Quality
    expects_percent: tuple[float, float]
    """The errors that the network expects to make on a tenth of the cached images, and makes."""
    is_new: bool
    """Whether by these the network is judged to be new to that tenth."""
    holdout: Way
    alone: Way
    best: Way
    """Chosen on the test images."""


@dataclass(frozen=True)
class Gains:
    """What ``gain`` measured of some networks."""

    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"networks": [asdict(row) for row in self.rows]}

    def tables(self) -> list[Table]:
        """One: a network a row, a way to choose parameters a group of columns."""
        rows = []
        for row in self.rows:
            for label, way in (
                ("with a holdout", row.holdout),
                ("without", row.alone),
                ("best on the test images", row.best),
            ):
                m = way.measured
                rows.append(
                    (
                        row.name,
                        label,
                        " / ".join(f"{p.theta:g}, {p.lam:g}, {p.k}" for p in way.parameters),
                        f"{row.network.error_percent:.2f}",
                        f"{m.error_percent:.2f}",
                        f"{way.kept_percent:.0f}",
                        f"{m.ece_percent:.2f}",
                        f"{m.nll:.4f}",
                    )
                )
        judged = "; ".join(
            f"{row.name} errs on {row.expects_percent[1]:.1f} % of a tenth of its cache and expects "
            f"{row.expects_percent[0]:.1f} %: {'new to it' if row.is_new else 'trained on it'}"
            for row in self.rows
        )
        columns = ("parameters", "theta, lam, k", "network %", "mixed %", "of the gain %", "ECE %", "NLL")
        return [
            Table(
                "what a cache gains with parameters as they are fitted, and at most",
                ("network", *columns),
                tuple(rows),
                f"the best on the test images looks at them, as nobody may; {judged}",
                names=2,
            )
        ]

    def figures(self) -> list[Figure]:
        """None."""
        return []


def gain(
    name: str, source: EncoderSource, train: Dataset, test: Dataset, *, mirror: bool, progress: Progress = silent
) -> Row:
    """Cache a network's keys of ``train``, choose parameters in each way, and answer ``test``.

    Raises:
        What ``index`` raises of a network that does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder = source.prepare(train, Path(folder), progress)
        everything = np.arange(len(train.labels))
        embedded = embed_entries(train, everything, encoder, progress, mirror=mirror, thumbnails=False)
        asked = embed_queries(test, np.arange(len(test.labels)), encoder, progress)
    values = train.labels[embedded.positions]
    classes = len(train.classes)
    store = FaissStore.build(embedded.keys, values, "Flat")
    entries = NewEntries.of(train, embedded).voting(is_kept_whole=True)
    tenth = softmax(entries.tenth.logits, classes)
    errs, expects, _ = expected_errors(tenth, entries.tenth.labels)
    cached = embedded.looks
    by_cache = fit_cache(
        store,
        classes,
        classes,
        entries,
        tenth_as_holdout("a tenth", entries.tenth, cached, TrainedOn(said="yes")),
        progress=progress,
    )
    served = ServedCache.of(store, classes, classes)
    network, labels = softmax(asked.logits, classes), asked.labels
    found = nearest_entries(served, asked.keys, min(max(k or 1 for k in KS), served.count), progress=progress)

    def answer(parameters: Parameters, rows: Ints) -> Floats:
        theta, lam, k = parameters
        return mix(network[rows], served.vote(found.similarities[rows, :k], found.values[rows, :k], theta), lam)

    everyone = np.arange(len(labels))
    best = _best(_chosen(network, labels, found, everyone, store.count))
    own = Quality.of(network, labels)
    least = Quality.of(answer(best, everyone), labels)
    way = _measuring(answer, labels, own.error_percent, least.error_percent)
    halves = [np.flatnonzero(np.random.default_rng(0).permutation(len(labels)) % 2 == half) for half in (0, 1)]
    fitted = [_chosen(network, labels, found, half, store.count).parameters for half in halves]
    return Row(
        name=name,
        images=len(labels),
        entries=store.count,
        network=own,
        expects_percent=(100 * expects, 100 * errs),
        is_new=tenth_as_holdout("a tenth", entries.tenth, cached, TrainedOn()).holdout is not None,
        holdout=way((fitted[1], fitted[0]), halves),
        alone=way((by_cache.parameters,), [everyone]),
        best=way((best,), [everyone]),
    )


def _chosen(network: Floats, labels: Ints, found: Neighbors, rows: Ints, entries: int) -> FittedParameters:
    """What the fit chooses on some of the images."""
    return choose_parameters(network[rows], labels[rows], found.similarities[rows], found.values[rows], entries, ks=KS)


def _best(fitted: FittedParameters) -> Parameters:
    """The cell of the grid with the fewest errors."""
    errors = np.array(fitted.report.error_percent)
    k, theta, lam = np.unravel_index(int(errors.argmin()), errors.shape)
    report = fitted.report
    return Parameters(report.thetas[theta], report.lams[lam], report.ks[k])


def _measuring(
    answer: Callable[[Parameters, Ints], Floats], labels: Ints, network: float, least: float
) -> Callable[[tuple[Parameters, ...], list[Ints]], Way]:
    def way(parameters: tuple[Parameters, ...], parts: list[Ints]) -> Way:
        rows = np.concatenate(parts)
        said = np.concatenate([answer(p, part) for p, part in zip(parameters, parts, strict=True)])
        measured = Quality.of(said, labels[rows])
        kept = 100 * (network - measured.error_percent) / max(network - least, 1e-9)
        return Way(parameters, measured, kept)

    return way
