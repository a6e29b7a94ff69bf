"""How far the score that novelty goes by is from the best of all candidates, on unknown images that it did not see.

The candidate is chosen as ``index`` chooses, on half of the test images as an honest holdout. The other half are the
known images that unknown ones are told from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.embedding.entries import embed_entries
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.fitting.class_shape import ClassShape
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.fitting.novelty import (
    CANDIDATES,
    LEFT_OUT,
    TENTH,
    Seen,
    class_left_out,
    fit_novelty,
    scores_of,
    told,
)
from secondlook.indexer.fitting.unknown import unknown_kinds
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.networks.engines import Encoding
from secondlook.model.scoring import auroc
from secondlook.model.stores.faiss_store import FaissStore

WITHIN = 1.5
"""Points of AUROC that the choice may be below the best candidate."""


@dataclass(frozen=True)
class Row:
    """One network with its cache."""

    name: str
    entries: int
    holdout: int
    known: int
    chosen: str
    chosen_on: dict[str, dict[str, float]]
    """AUROC % of each candidate, by kinds of unknown images, where it was chosen."""
    asked: dict[str, dict[str, float]]
    """The same of kinds that the choice did not see, told from known images that it did not see."""

    def best(self, kind: str) -> str:
        """The candidate that tells a kind best."""
        return max(self.asked, key=lambda name: self.asked[name][kind])

    @property
    def lost(self) -> dict[str, float]:
        """By how many points the choice is below the best candidate, by kind."""
        chosen = self.asked[self.chosen]
        return {kind: round(self.asked[self.best(kind)][kind] - of, 2) for kind, of in chosen.items()}


@dataclass(frozen=True)
class Novelties:
    """What ``novelties`` measured of some networks."""

    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"networks": [asdict(row) | {"lost": row.lost} for row in self.rows]}

    def tables(self) -> list[Table]:
        """The choice against the best candidate of each case, and all candidates of each network."""
        cases = [
            (
                row.name,
                kind,
                row.chosen,
                f"{row.asked[row.chosen][kind]:.2f}",
                f"{row.asked[row.best(kind)][kind]:.2f}",
                row.best(kind),
                f"{lost:.2f}",
                "yes" if lost <= WITHIN else "no",
            )
            for row in self.rows
            for kind, lost in row.lost.items()
        ]
        columns = ("unknown images", "chosen", "AUROC %", "best %", "by", "points lost", f"within {WITHIN:g}")
        found = [
            Table(
                "the score that was chosen, and the best of each case",
                ("network", *columns),
                tuple(cases),
                "; ".join(
                    f"{row.name}: {row.entries:,} entries, chosen on {row.holdout:,} images, unknown ones told from "
                    f"{row.known:,} others"
                    for row in self.rows
                ),
                names=3,
            )
        ]
        return found + [_candidates(row) for row in self.rows]

    def figures(self) -> list[Figure]:
        """None."""
        return []


def _candidates(row: Row) -> Table:
    on, asked = (list(of[row.chosen]) for of in (row.chosen_on, row.asked))
    return Table(
        f"AUROC % of every candidate, {row.name}",
        ("by", *(f"choice: {kind}" for kind in on), *asked),
        tuple(
            (
                f"{name} (chosen)" if name == row.chosen else name,
                *(f"{row.chosen_on[name][kind]:.2f}" for kind in on),
                *(f"{row.asked[name][kind]:.2f}" for kind in asked),
            )
            for name in row.asked
        ),
        "choice: what it was chosen on",
    )


def novelties(
    name: str,
    source: EncoderSource,
    train: Dataset,
    test: Dataset,
    unknown: Sequence[Dataset],
    progress: Progress = silent,
) -> Row:
    """Cache a network's keys of ``train``, choose a score on half of ``test``, and ask all of the rest.

    Raises:
        What ``index`` raises of a network that does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder = source.prepare(train, Path(folder), progress)
        everything = np.arange(len(train.labels))
        embedded = embed_entries(train, everything, encoder, progress, mirror=False, thumbnails=False)
        tested = embed_queries(test, np.arange(len(test.labels)), encoder, progress)
        made = unknown_kinds(encoder, [], progress)
        others = {of.name: embed_queries(of, np.arange(len(of.labels)), encoder, progress) for of in unknown}
    values, classes = train.labels[embedded.positions], len(train.classes)
    store = FaissStore.build(embedded.keys, values, "Flat")
    served, shape = ServedCache.of(store, classes, classes), ClassShape.of(store.chunks(), store.count, classes)

    def seen(images: EmbeddedQueries | Encoding) -> Seen:
        near = nearest_entries(served, images.keys, min(TENTH, served.count), progress=progress)
        return Seen(images.logits, images.keys, near.similarities)

    halves = np.random.default_rng(0).permutation(len(tested.labels)) % 2
    holdout, rest = (tested.part(halves == half) for half in (0, 1))
    held, known = seen(holdout), seen(rest)
    novelty, _ = fit_novelty(held, holdout.labels, shape, {kind: seen(of) for kind, of in made.items()})
    reference, of_known = (scores_of(of, shape.directions()) for of in (held, known))
    asked: dict[str, dict[str, float]] = {one.score: {} for one in novelty.candidates}
    for kind, images in others.items():
        scores = scores_of(seen(images), shape.directions())
        for one in novelty.candidates:
            weights = CANDIDATES[one.score]
            area = auroc(-told(weights, reference, of_known), -told(weights, reference, scores))
            asked[one.score][kind] = round(100 * area, 2)
    for candidate, area in class_left_out(known, rest.labels, shape).items():
        asked[candidate][LEFT_OUT] = area
    return Row(
        name=name,
        entries=store.count,
        holdout=len(holdout.labels),
        known=len(rest.labels),
        chosen=novelty.score,
        chosen_on={one.score: one.auroc for one in novelty.candidates},
        asked=asked,
    )
