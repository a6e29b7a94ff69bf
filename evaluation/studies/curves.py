"""Error by what is cached and by what a key is made of: the paper's further figures.

For each cache (fewer or more images, with and without their mirrored copies, keys of other layers) theta and lam are
fitted anew on the holdout, none of whose images is in any of them; the errors are on other images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.evaluate import need_network, sample, unseen
from secondlook.evaluation.studies.curve_points import Point, Queries, merged
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.encoders import best_device
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.plots import INK, MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.files import NETWORK, require_module
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.errors import DatasetError
from secondlook.model.stores.store import Store

By = Literal["size", "layer"]
BY: tuple[By, ...] = ("size", "layer")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
K = 200
"""Neighbours that vote where the bundle asks all of its entries."""

IMAGES, HELD, CACHED = 2000, 1000, 10_000
"""Images asked, images of the holdout fitted on, and images cached for each layer, unless others are asked for."""


@dataclass(frozen=True)
class Curves:
    """What ``curves`` measured."""

    generation: str
    dataset: str
    images: int
    held: int
    k: int
    sizes: tuple[Point, ...] = ()
    """Random parts of the bundle's entries, from few to many; with mirrored copies, where it has them, and without."""
    layers: tuple[Point, ...] = ()
    """Keys of single layers from the first to the last, of the paper's three, and of the bundle's recipe."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""

        def told(points: tuple[Point, ...]) -> list[dict[str, Any]]:
            return [
                asdict(p)
                | {
                    of: {name: found._asdict() for name, found in getattr(p, of).items()}
                    for of in ("error_percent", "fewer_errors")
                }
                for p in points
            ]

        return {**asdict(self), "sizes": told(self.sizes), "layers": told(self.layers)}

    def tables(self) -> list[Table]:
        """By size, and by layer."""
        note = (
            f"theta and lam fitted for each cache on {self.held:,} images of the holdout, which is in none; "
            f"k {self.k}; in brackets 95 % bootstrap intervals over the images"
        )
        seen = f"{self.dataset}, {self.images:,} images"
        found = []
        for what, points in (("part of the cache", self.sizes), ("key", self.layers)):
            rows = [
                (
                    point.label,
                    "yes" if point.mirrored else "no",
                    f"{point.entries:,}",
                    f"{point.dim:,}",
                    point.error_percent["mixed"].text(),
                    point.fewer_errors["mixed"].text(),
                    point.error_percent["cache_only"].text(),
                    f"{point.nll['mixed']:.4f}",
                    f"{point.theta:g}, {point.lam:g}",
                    f"{point.cache_theta:g}",
                )
                for point in points
            ]
            if rows:
                network = points[0].error_percent["network"].text()
                columns = (
                    what,
                    "mirrored",
                    "entries",
                    "D",
                    "mixed %",
                    "points less than the network",
                    "cache only %",
                    "NLL mixed",
                    "theta, lam",
                    "alone",
                )
                found.append(Table(f"error by {what}: {seen}, network {network} %", columns, tuple(rows), note))
        return found

    def figures(self) -> list[Figure]:
        """Size, and layers."""
        found = []
        if self.sizes:
            mirrored = any(point.mirrored for point in self.sizes)
            sizes = [point for point in self.sizes if point.mirrored == mirrored]
            few, many = sizes[0], sizes[-1]
            network = many.error_percent["network"].value
            found.append(
                Figure(
                    "cache-size",
                    f"Mixture's error: {few.error_percent['mixed'].value:.1f} % with {few.entries:,} entries, "
                    f"{many.error_percent['mixed'].value:.1f} % with {many.entries:,} (network {network:.1f} %)",
                    lambda into: _draw_sizes(into, sizes),
                    "Error of network, mixture and cache only against the number of entries, with intervals.",
                )
            )
        if self.layers:
            layers = [p for p in self.layers if p.mirrored == self.layers[-1].mirrored]
            found.append(
                Figure(
                    "layer-depth",
                    _best_keys(layers),
                    lambda into: _draw_layers(into, layers),
                    "Two panels, error of the cache alone and the mixture's gain by the layer that keys are made of, "
                    "from the first layer to the last, then the paper's three together and the bundle's recipe.",
                    (10.0, 4.8),
                )
            )
        return found


def curves(
    bundle: Bundle,
    dataset: Dataset,
    train: Dataset,
    *,
    by: Collection[By] = BY,
    images: int | None = IMAGES,
    held: int | None = HELD,
    cached: int | None = CACHED,
    shares: Sequence[float] = SHARES,
    layers: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Curves:
    """Measure error by size of the cache, by layer, or by both.

    ``train`` is the dataset that the bundle caches; its holdout fits theta and lam. ``layers`` are names of the
    network's (None = three of each stage); they need torch and the bundle's network file. Without that file, both at
    once are sizes only.

    Raises:
        BundleError: layers alone are to be measured, and the bundle has no network file; or the network has no head.
        DatasetError: a dataset's classes are not the bundle's, ``train`` is not what it caches, or it has no holdout.
        RecipeError: the network has no such layer.
        MemoryLimitError: the keys of the images that ask would not fit.
    """
    manifest = bundle.manifest
    need_network(manifest, "a curve")
    dataset, train = unseen(dataset, manifest), of_bundle(train, manifest)
    if train.content_hash() != manifest.dataset.sha256:
        raise DatasetError(
            f"{train.name} ({train.split}) is not the dataset that generation {manifest.generation} caches"
        )
    has_network = NETWORK in manifest.files
    if "size" not in by:
        require_module(manifest, "layers are taken of (secondlook fit --recipes compares those of any network)")
    if not len(train.holdout()):
        raise DatasetError(f"{train.name} has too few images to hold any out for fitting")
    k = min(manifest.k or K, bundle.store.count)
    asked, fitted = sample(dataset, images), sample(train, held, train.holdout())
    of_dataset = embed_queries(dataset, asked, bundle, progress)
    of_holdout = embed_queries(train, fitted, bundle, progress)
    network = softmax(np.concatenate((of_dataset.logits, of_holdout.logits)), len(manifest.classes))
    queries = Queries(network, np.concatenate((of_dataset.labels, of_holdout.labels)), len(of_holdout.labels))
    sizes: list[Point] = []
    if "size" in by:
        sizes = _sizes(bundle, train, queries, np.concatenate((of_dataset.keys, of_holdout.keys)), k, shares, progress)
    of_layers: list[Point] = []
    if "layer" in by and has_network:
        from secondlook.evaluation.studies.layers import by_layer

        of_layers = by_layer(bundle, dataset, train, asked, fitted, k, cached, layers, best_device(), progress)
    return Curves(
        manifest.generation,
        f"{dataset.name} {dataset.split}",
        len(of_dataset.labels),
        len(of_holdout.labels),
        k,
        tuple(sizes),
        tuple(of_layers),
    )


def _sizes(
    bundle: Bundle, train: Dataset, queries: Queries, keys: Floats, k: int, shares: Sequence[float], progress: Progress
) -> list[Point]:
    """Nested random parts of the entries: each is searched once for what it adds to the one before."""
    store = bundle.store
    sources, image = np.unique(bundle.entries.sources(), return_inverse=True)
    held_sources = np.array([train.source(int(position)) for position in train.holdout()])
    kept = np.flatnonzero(~np.isin(sources, held_sources))
    if not len(kept):
        raise DatasetError("the cache holds nothing but the holdout: there is no part of it to measure")
    rank = np.full(len(sources), len(kept))
    rank[np.random.default_rng(0).permutation(kept)] = np.arange(len(kept))
    rank = rank[image]
    mirrored = np.array([entry is not None and entry.mirrored for entry in map(bundle.entries.get, range(store.count))])
    points: list[Point] = []
    found: dict[bool, tuple[Floats, Ints]] = {}
    below = 0
    for step, share in enumerate(shares):
        upto = max(1, round(share * len(kept)))
        for copy in (False, True) if mirrored.any() else (False,):
            part = _nearest(store, keys, (rank >= below) & (rank < upto) & (mirrored == copy), k)
            found[copy] = merged(found[copy], part, k) if copy in found else part
        below = upto
        entries = int(((rank < upto) & ~mirrored).sum())
        label = f"{100 * share:g} %"
        points.append(queries.point(label, found[False], k, entries, False, store.dim))
        if True in found:
            both = int((rank < upto).sum())
            points.append(queries.point(label, merged(found[False], found[True], k), k, both, True, store.dim))
        progress("sizes", step + 1, len(shares))
    return points


def _nearest(store: Store, queries: Floats, mask: NDArray[np.bool_], k: int) -> tuple[Floats, Ints]:
    """Exact search among some entries: similarities and values (n, at most k), descending."""
    found = nearest_entries(ServedCache(store, 0, mask=mask), queries, min(k, int(mask.sum())))
    return found.similarities, found.values


def _best_keys(points: list[Point]) -> str:
    best = max(points, key=lambda point: point.fewer_errors["mixed"].value)
    gain = best.fewer_errors["mixed"]
    if gain.low > 0:
        return f"The mixture gains most with {best.label}: {gain.text(1)} points on the network"
    return f"With {best.entries:,} entries, no keys make the mixture surely better than the network"


def _draw_sizes(into: Any, points: list[Point]) -> None:
    axes = into.subplots()
    entries = [point.entries for point in points]
    for name, style in MODELS.items():
        found = [point.error_percent[name] for point in points]
        axes.plot(entries, [f.value for f in found], **style.keywords)
        if name != "network":  # the same images and no cache: its interval would cover the others' everywhere
            axes.fill_between(entries, [f.low for f in found], [f.high for f in found], color=style.colour, alpha=0.13)
    axes.set(xscale="log", xlabel="entries", ylabel="error, %")
    axes.set_xticks(entries)
    axes.set_xticklabels([f"{n:,}" for n in entries], fontsize=9)
    axes.minorticks_off()
    axes.legend()


def _draw_layers(into: Any, points: list[Point]) -> None:
    places = range(len(points))
    panels = (
        (
            "cache_only",
            "error, %",
            [p.error_percent["cache_only"] for p in points],
            points[0].error_percent["network"].value,
        ),
        ("mixed", "errors less than the network's, points", [p.fewer_errors["mixed"] for p in points], 0.0),
    )
    for axes, (name, what, found, network) in zip(into.subplots(1, 2), panels, strict=True):
        style = MODELS[name]
        axes.errorbar(
            [f.value for f in found],
            places,
            xerr=([f.value - f.low for f in found], [f.high - f.value for f in found]),
            fmt=style.marker,
            color=style.colour,
            elinewidth=1,
        )
        axes.axvline(network, color=MODELS["network"].colour, linestyle="--")
        axes.text(network, -0.9, " network", color=INK, fontsize=9, va="center")
        axes.set(title=style.label, xlabel=what, ylim=(len(points) - 0.5, -1.4))
        axes.set_yticks(places)
        axes.set_yticklabels([point.label for point in points] if name == "cache_only" else [])
