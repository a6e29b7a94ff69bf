"""Natural shift: the three models on corrupted images, and with a cache filled with images corrupted alike.

Encoder, theta, lam and k stay what they are; only what is cached changes. So the gain over a cache of the same images
as they are is what filling the cache adapts, without training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.evaluate import Quality, Setting, ask, need_network, opinions, sample, unseen
from secondlook.evaluation.studies.corruptions import FAMILIES, STRENGTHS, shifted
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.plots import MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import softmax
from secondlook.model.errors import DatasetError
from secondlook.model.intervals import Interval, bootstrap
from secondlook.model.memory import check_memory
from secondlook.model.stores.faiss_store import FaissStore

IMAGES, REFILL = 2000, 10_000
"""Test images classified, and training images put into a cache, unless others are asked for."""

OWN, PLAIN, REFILLED = "own", "plain", "refilled"
"""The bundle's own cache; one of some training images as they are; one of the same images, corrupted."""

Wrong = dict[tuple[str, str], NDArray[np.bool_]]
"""For each cache and model, whether each image (N,) is classified wrongly."""


@dataclass(frozen=True)
class Cell:
    """One family at one strength (or images as they are: family "", strength 0)."""

    family: str
    strength: int
    metrics: dict[str, dict[str, Quality]]
    """By cache and model; the network, which asks none, stands with the bundle's own."""


@dataclass(frozen=True)
class Mean:
    """All strengths of one family, or of all families together."""

    label: str
    error_percent: dict[str, dict[str, Interval]]
    """By cache and model, as in ``Cell``."""
    fewer_errors: dict[str, Interval]
    """By how many points a refilled cache errs less than one of the same images as they are, by model."""
    regained: dict[str, float | None]
    """How much of what the shift costs with a cache of plain images a refilled one gains back; None: no cost."""


@dataclass(frozen=True)
class Shift:
    """What ``shift`` measured."""

    generation: str
    dataset: str
    images: int
    entries: int
    """Of the bundle's own cache."""
    refill: int
    """Entries of the other two; 0 = none was made."""
    parameters: dict[str, float | None]
    cells: tuple[Cell, ...]
    means: tuple[Mean, ...]
    """A family each, and all of them last."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "cells": [asdict(cell) for cell in self.cells],
            "means": [
                {
                    "label": mean.label,
                    "error_percent": {
                        cache: {name: found._asdict() for name, found in models.items()}
                        for cache, models in mean.error_percent.items()
                    },
                    "fewer_errors": {name: found._asdict() for name, found in mean.fewer_errors.items()},
                    "regained": mean.regained,
                }
                for mean in self.means
            ],
        }

    def tables(self) -> list[Table]:
        """Means over the strengths; what refilling does; every strength."""
        seen = f"{self.dataset}, {self.images:,} images, generation {self.generation}"
        strengths = sorted({cell.strength for cell in self.cells if cell.strength})
        p = self.parameters
        found = [
            Table(
                f"error % under shift, mean over strengths {', '.join(map(str, strengths))}: {seen}",
                ("", *(style.label for style in MODELS.values())),
                tuple((mean.label, *(mean.error_percent[OWN][name].text(1) for name in MODELS)) for mean in self.means),
                "families and strengths of CIFAR-10-C, generated here; in brackets 95 % bootstrap intervals over the "
                f"images; theta {p['theta']:g} (cache alone {p['cache_theta']:g}), lam {p['lam']:g}, "
                f"k {p['k'] or 'all'}",
            )
        ]
        if self.refill:
            found += [self._refilled("mixed"), self._refilled("cache_only")]
        found.append(self._every_strength())
        return found

    def _refilled(self, name: str) -> Table:
        rows = []
        for mean in self.means:
            before, after = (mean.error_percent[cache][name].text(1) for cache in (PLAIN, REFILLED))
            gained = mean.regained[name]
            share = "-" if gained is None else f"{100 * gained:.0f} %"
            rows.append((mean.label, before, after, mean.fewer_errors[name].text(1), share))
        return Table(
            f"{MODELS[name].label}: the cache refilled with {self.refill:,} training images under the same shift",
            ("", "error %, as they are", "error %, refilled", "points gained", "regained"),
            tuple(rows),
            "as they are: a cache of the same training images without the shift; regained: share of what the shift "
            "cost with that; encoder, theta, lam and k are untouched",
        )

    def _every_strength(self) -> Table:
        columns = [(OWN, name) for name in MODELS]
        if self.refill:
            columns += [(cache, name) for name in ("mixed", "cache_only") for cache in (PLAIN, REFILLED)]
        said = {OWN: "", PLAIN: ", as they are", REFILLED: ", refilled"}
        rows = []
        for cell in self.cells:
            label = f"{FAMILIES[cell.family].label} {cell.strength}" if cell.strength else "as they are"
            shown = [
                f"{cell.metrics[cache][name].error_percent:.1f}" if name in cell.metrics.get(cache, {}) else "-"
                for cache, name in columns
            ]
            rows.append((label, *shown))
        return Table(
            "error % by family and strength",
            ("", *(f"{MODELS[name].label}{said[cache]}" for cache, name in columns)),
            tuple(rows),
        )

    def figures(self) -> list[Figure]:
        """The three models, and what refilling does."""
        every = self.means[-1].error_percent
        network, mixed = every[OWN]["network"].value, every[OWN]["mixed"].value
        found = [
            Figure(
                "shift",
                f"Error under shift, mean of all: network {network:.1f} %, mixture {mixed:.1f} %, "
                f"cache only {every[OWN]['cache_only'].value:.1f} %",
                self._draw([(OWN, name) for name in MODELS]),
                self._alt("the three models"),
                (11.0, 3.6),
            )
        ]
        if self.refill:
            plain, refilled = every[PLAIN]["mixed"].value, every[REFILLED]["mixed"].value
            lines = [(OWN, "network"), (PLAIN, "mixed"), (REFILLED, "mixed"), (REFILLED, "cache_only")]
            found.append(
                Figure(
                    "refilled",
                    f"Refilling the cache with shifted training images: mixture {plain:.1f} → {refilled:.1f} % error, "
                    f"network {network:.1f} %",
                    self._draw(lines),
                    self._alt("the network, the mixture before and after refilling, and the refilled cache alone"),
                    (11.0, 3.6),
                )
            )
        return found

    def _alt(self, whose: str) -> str:
        return f"A panel for each of {len(self.means) - 1} families: error against strength for {whose}."

    def _draw(self, lines: list[tuple[str, str]]) -> Any:
        families = list(dict.fromkeys(cell.family for cell in self.cells if cell.family))

        def draw(into: Any) -> None:
            panels = into.subplots(1, len(families), sharey=True, squeeze=False)[0]
            for axes, family in zip(panels, families, strict=True):
                for cache, name in lines:
                    points = [
                        (cell.strength, cell.metrics[cache][name].error_percent)
                        for cell in self.cells
                        if cell.family in ("", family) and name in cell.metrics.get(cache, {})
                    ]
                    keywords = MODELS[name].keywords | {"markersize": 5}
                    if cache == PLAIN:
                        keywords |= {
                            "markerfacecolor": "none",
                            "linewidth": 1,
                            "label": f"{keywords['label']}, as it was",
                        }
                    if cache == REFILLED:
                        keywords |= {"label": f"{keywords['label']}, refilled"}
                    axes.plot(*zip(*points, strict=True), **keywords)
                axes.set(title=FAMILIES[family].label, xlabel="strength", xticks=range(6))
            panels[0].set(ylabel="error, %", ylim=(0, None))
            handles, labels = panels[0].get_legend_handles_labels()
            into.legend(handles, labels, loc="outside lower center", ncols=len(lines), fontsize=10)

        return draw


def shift(
    bundle: Bundle,
    dataset: Dataset,
    train: Dataset | None = None,
    *,
    images: int | None = IMAGES,
    refill: int | None = REFILL,
    families: Sequence[str] = tuple(FAMILIES),
    strengths: Sequence[int] = STRENGTHS,
    setting: Setting | None = None,
    progress: Progress = silent,
) -> Shift:
    """Classify some images of a dataset as they are and under each shift, by the bundle and by refilled caches.

    ``train`` is what the other caches are filled from, with so many of its images; None = the bundle's own cache only.
    Without a ``setting``, the models have the bundle's parameters.

    Raises:
        BundleError: the network has no head.
        DatasetError: a dataset's classes are not the bundle's, it is what the bundle caches, or images are unreadable.
        MemoryLimitError: the other caches would not fit.
    """
    manifest, engine = bundle.manifest, bundle.engine
    need_network(manifest, "a shift")
    setting = setting or Setting.of(manifest)
    dataset = unseen(dataset, manifest)
    asked, filling = sample(dataset, images), np.empty(0, np.int64)
    if train is not None:
        train = of_bundle(train, manifest)
        if train.content_hash() == dataset.content_hash():
            raise DatasetError(
                f"{train.name} has one set of images only: a cache filled with them would hold those asked"
            )
        filling = sample(train, refill)
        # Keys as embedded and in the store, of both caches.
        check_memory(16 * engine.dim * len(filling), f"refilling with {len(filling):,} images", "take fewer")
    steps: list[tuple[str, int]] = [("", 0), *((family, strength) for family in families for strength in strengths)]
    total, done = len(steps) * (len(asked) + len(filling)), 0

    def embed(images: Dataset, positions: NDArray[np.int64], family: str, strength: int) -> EmbeddedQueries:
        nonlocal done
        if family:
            images = shifted(images, family, strength)
        before = done
        found = embed_queries(images, positions, bundle, lambda _, now, __: progress("shift", before + now, total))
        done = before + len(positions)
        return found

    cells: list[Cell] = []
    wrong: list[Wrong] = []
    plain: FaissStore | None = None
    for family, strength in steps:
        queries = embed(dataset, asked, family, strength)
        keys, labels = queries.keys, queries.labels
        network = softmax(queries.logits, len(manifest.classes))
        classes, known = len(manifest.classes), len(manifest.network_classes)
        caches = {OWN: ServedCache.of(bundle.store, classes, known)}
        if train is not None:
            entries = embed(train, filling, family, strength)
            refilled = FaissStore.build(entries.keys, entries.labels, "Flat")
            plain = plain or refilled
            caches |= {
                PLAIN: ServedCache.of(plain, classes, known),
                REFILLED: ServedCache.of(refilled, classes, known),
            }
        metrics: dict[str, dict[str, Quality]] = {}
        missed: Wrong = {}
        for cache, served in caches.items():
            of_server = manifest.new_classes(classes) if setting.is_own(manifest) else None
            said = opinions(network, ask(served, keys, setting), setting, of_server)
            if cache != OWN:
                del said["network"]
            metrics[cache] = {name: Quality.of(p, labels) for name, p in said.items()}
            missed |= {(cache, name): p.argmax(axis=1) != labels for name, p in said.items()}
        cells.append(Cell(family, strength, metrics))
        wrong.append(missed)
    means = [
        _mean(FAMILIES[family].label, [w for (f, _), w in zip(steps, wrong, strict=True) if f == family], wrong[0])
        for family in families
    ]
    return Shift(
        generation=manifest.generation,
        dataset=f"{dataset.name} {dataset.split}",
        images=len(labels),
        entries=bundle.store.count,
        refill=plain.count if plain else 0,
        parameters=asdict(setting),
        cells=tuple(cells),
        means=(*means, _mean("all", wrong[1:], wrong[0])),
    )


def _mean(label: str, wrong: list[Wrong], unshifted: Wrong) -> Mean:
    """Of one family's strengths: each image counts with the share of them at which it is classified wrongly."""
    shares = {of: 100 * np.mean([w[of] for w in wrong], axis=0) for of in unshifted}
    errors: dict[str, dict[str, Interval]] = {}
    for (cache, name), share in shares.items():
        errors.setdefault(cache, {})[name] = bootstrap(share)
    fewer, regained = {}, {}
    for name in errors.get(REFILLED, {}):
        fewer[name] = bootstrap(shares[PLAIN, name] - shares[REFILLED, name])
        cost = errors[PLAIN][name].value - 100 * float(unshifted[PLAIN, name].mean())
        regained[name] = fewer[name].value / cost if cost > 0 else None
    return Mean(label, errors, fewer, regained)
