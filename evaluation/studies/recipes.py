"""Key recipes compared on a holdout: what each costs, how much it errs, and which one to take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secondlook.evaluation.timing import median_ms
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import ordered
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.encoders import OpenNetwork
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.approximation import measure
from secondlook.indexer.fitting.parameters import fit_parameters
from secondlook.indexer.memory import index_memory
from secondlook.indexer.plots import COLOURS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.indexer.sources.from_network import fitted_projection
from secondlook.model.answering.early_exit import early_exit_search
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, exact_vote, softmax
from secondlook.model.errors import DatasetError
from secondlook.model.memory import check_memory
from secondlook.model.networks.keys import keys_of
from secondlook.model.networks.network import width_of
from secondlook.model.networks.recipe import Recipe
from secondlook.model.stores.factory import choose_store
from secondlook.model.stores.faiss_store import FaissStore

BATCH = 64


@dataclass(frozen=True)
class RecipeResult:
    """One recipe on the holdout, under the theta, lam and k fitted for it."""

    name: str
    recipe: Recipe
    dim: int
    store: str
    bytes_per_entry: float
    one_ms: float
    """Search and vote of one query alone."""
    many_ms: float
    """The same for each of 32."""
    theta: float
    lam: float
    k: int | None
    error_percent: float
    cache_only_error_percent: float
    """Lowest of the grid at lam = 1."""
    ece_percent: float
    nll: float
    changed_top1_percent: float
    """By store and k, against the exact sum."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of all recipes, and which to take."""

    images: int
    entries: int
    network_error_percent: float | None
    """None without a head."""
    results: list[RecipeResult]
    allowed_percent: float
    """Errors up to this are within one standard error of the lowest."""
    chosen: RecipeResult

    @property
    def why(self) -> str:
        """The choice in a sentence."""
        return (
            f"{self.chosen.name}: of the recipes whose error is within one standard error of the lowest "
            f"(at most {self.allowed_percent:.2f} %), it needs the fewest bytes for an entry "
            f"({self.chosen.bytes_per_entry:,.0f})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "images": self.images,
            "entries": self.entries,
            "network_error_percent": self.network_error_percent,
            "recipes": [asdict(result) for result in self.results],
            "chosen": self.chosen.name,
            "why": self.why,
        }

    def tables(self) -> list[Table]:
        """One: a recipe a row."""
        columns = ("D", "bytes/entry", "one ms", "of 32 ms", "theta", "lam", "k", "error %", "cache only %")
        rows = [
            (
                f"{r.name} (taken)" if r is self.chosen else r.name,
                r.store,
                str(r.dim),
                f"{r.bytes_per_entry:,.0f}",
                f"{r.one_ms:.2f}",
                f"{r.many_ms:.3f}",
                f"{r.theta:g}",
                f"{r.lam:.2f}",
                str(r.k or "all"),
                f"{r.error_percent:.2f}",
                f"{r.cache_only_error_percent:.2f}",
                f"{r.ece_percent:.2f}",
                f"{r.nll:.4f}",
                f"{r.changed_top1_percent:.2f}",
            )
            for r in self.results
        ]
        return [
            Table(
                f"holdout of {self.images:,} images, {self.entries:,} entries"
                + ("" if self.network_error_percent is None else f", network alone {self.network_error_percent:.2f} %"),
                ("recipe", "store", *columns, "ECE %", "NLL", "changed by k and store %"),
                tuple(rows),
                f"take {self.why}",
                names=2,
            )
        ]

    def figures(self) -> list[Figure]:
        """Error by bytes of an entry; the recipe to take is filled."""
        return [
            Figure(
                "recipes",
                "Error on the holdout by the size of a key",
                self._draw,
                "Error of the mixture against bytes of an entry, a point for each recipe, and the network's error.",
            )
        ]

    def _draw(self, into: Any) -> None:
        axes = into.subplots()
        if self.network_error_percent is not None:
            axes.axhline(self.network_error_percent, color="#444444", linestyle="--", label="network alone")
        axes.axhspan(
            min(r.error_percent for r in self.results),
            self.allowed_percent,
            color="#EEEEEE",
            label="within one standard error of the lowest",
        )
        for result in self.results:
            taken = result is self.chosen
            axes.scatter(
                [result.bytes_per_entry],
                [result.error_percent],
                s=90,
                color=COLOURS[2] if taken else COLOURS[0],
                marker="D" if taken else "o",
                zorder=3,
            )
            axes.annotate(
                f"{result.name}{' (taken)' if taken else ''}",
                (result.bytes_per_entry, result.error_percent),
                textcoords="offset points",
                xytext=(7, 6),
            )
        axes.set(xscale="log", xlabel="bytes of an entry in its store", ylabel="error of the mixture, %")
        axes.margins(0.18)
        axes.legend(fontsize=9)


def compare(
    dataset: Dataset,
    opened: OpenNetwork,
    recipes: dict[str, Recipe],
    *,
    mirror: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Embed a dataset once under all recipes, and fit and time each. With ``mirror``, mirrored copies are cached too.

    Raises:
        DatasetError, RecipeError, MemoryLimitError: as ``index`` would for one of them.
    """
    network, dataset = opened.network, ordered(dataset, opened.classes)
    layers, geometry = network.layers(), network.preprocess.geometry
    fitted_keys = {name: fitted_projection(network, recipe, dataset, progress) for name, recipe in recipes.items()}
    written = {name: recipe for name, (recipe, _) in fitted_keys.items()}  # of few images they reduce keys to less
    names = tuple(dict.fromkeys(layer for recipe in written.values() for layer in recipe.all_layers))
    copies = (False, True) if mirror else (False,)
    positions: list[int] = []
    mirrored: list[bool] = []
    logits: list[Floats] = []
    keys: dict[str, list[Floats]] = {name: [] for name in written}
    order = np.arange(len(dataset.labels))
    dims = [width_of(recipe, layers) for recipe in written.values()]
    # All keys, and of one recipe at a time a copy of them and what an index needs.
    count = len(order) * len(copies)
    check_memory(
        4 * (sum(dims) + max(dims)) * count + index_memory(count, max(dims)),
        f"comparing recipes of {sum(dims):,} numbers in all",
        "compare fewer at a time",
    )
    for indices, images in batches(dataset, order, geometry, BATCH):
        for copy in copies:
            found = network.activations(np.ascontiguousarray(images[:, :, ::-1]) if copy else images, names)
            for name, (recipe, projection) in fitted_keys.items():
                keys[name].append(keys_of(found.seen, layers, recipe, projection))
            logits.append(opened.logits(found))
            positions += indices.tolist()
            mirrored += [copy] * len(indices)
        progress("embed", len(positions) // len(copies), len(order))
    if not positions:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    at = np.array(positions)
    held = np.isin(at, dataset.holdout())
    asked = held & ~np.array(mirrored)
    if not asked.any() or held.all():
        raise DatasetError(f"{dataset.name} has too few images to hold any out for comparing recipes")
    values, outputs = dataset.labels[at], np.concatenate(logits)
    results = []
    report = None
    for done, name in enumerate(written):
        progress("recipes", done, len(written))
        own = np.concatenate(keys.pop(name))
        holdout = EmbeddedQueries(outputs[asked], own[asked], values[asked])
        factory = choose_store(len(own), own.shape[1])[0]
        store = FaissStore.build(own, values, factory)
        served = ServedCache.of(store, len(dataset.classes), outputs.shape[1], held)
        fitted, near = fit_parameters(holdout, served)
        report, chosen = fitted.report, fitted.parameters
        assert report.chosen_ece_percent is not None
        network_error = report.network_error_percent
        measured = measure(served, store, [(own[~held], values[~held])], holdout, near, chosen)
        store, approximation_error = measured.store, measured.approximation_error
        # Timed without the holdout's own entries: a query that finds itself is settled too soon.
        others = choose_store(int((~held).sum()), own.shape[1])[0]
        timed = FaissStore.build(own[~held], values[~held], others).with_search(store.search_info)
        results.append(
            RecipeResult(
                name=name,
                recipe=written[name],
                dim=own.shape[1],
                store=factory,
                bytes_per_entry=store.stored_bytes() / len(own),
                one_ms=_cost(timed, holdout, chosen, 1, len(dataset.classes)),
                many_ms=_cost(timed, holdout, chosen, min(32, len(holdout.labels)), len(dataset.classes)),
                theta=chosen.theta,
                lam=chosen.lam,
                k=chosen.k,
                error_percent=report.chosen_error_percent,
                cache_only_error_percent=min(row[-1] for plane in report.error_percent for row in plane),
                ece_percent=report.chosen_ece_percent,
                nll=report.chosen_nll,
                changed_top1_percent=approximation_error.changed_top1_percent,
            )
        )
    progress("recipes", len(written), len(written))
    assert report is not None
    lowest = min(result.error_percent for result in results) / 100
    allowed = 100 * (lowest + np.sqrt(lowest * (1 - lowest) / report.images))
    able = [result for result in results if result.error_percent <= allowed]
    best = min(able, key=lambda result: (result.bytes_per_entry, result.nll))
    return Comparison(report.images, report.entries, network_error, results, float(allowed), best)


def _cost(store: FaissStore, holdout: EmbeddedQueries, parameters: Parameters, batch: int, classes: int) -> float:
    """Mean milliseconds of search and vote for a query."""
    theta, lam, k = parameters
    network = softmax(holdout.logits, classes)
    starts = range(0, min(len(network), 20 * batch if batch > 1 else 200) - batch + 1, batch)

    def call() -> None:
        for start in starts:
            rows = slice(start, start + batch)
            if k is None:
                exact_vote(holdout.keys[rows], store.chunks(), (theta,), network.shape[1])
            else:
                early_exit_search(store, holdout.keys[rows], network[rows], theta, lam, k)

    return median_ms(call, 0.5) / max(1, len(starts) * batch)
