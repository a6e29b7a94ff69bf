"""Error, calibration and likelihood of network, mixture and cache alone: the paper's first figure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.all_classes import AllClasses
from secondlook.evaluation.fit_grid import cache_only_theta, surfaces
from secondlook.evaluation.statistics.reliability import Reliability, diagram
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.copies import Looks, copies_of
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.looks import LOOKS, CachedLooks
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.plots import MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import own_evidence
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints, check_lam, check_parameters, mix, softmax
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.intervals import Interval, bootstrap
from secondlook.model.manifest import FitReport, Manifest
from secondlook.model.networks.engines import OnnxEngine
from secondlook.model.scoring import ece_percent, error_percent, nll

QUERIES_AT_ONCE = 1000


@dataclass(frozen=True)
class Quality:
    """How good one model's probabilities are."""

    error_percent: float
    ece_percent: float
    nll: float

    @classmethod
    def of(cls, probabilities: Floats, labels: Ints) -> Quality:
        """Measure probabilities (N,C) against labels (N,)."""
        return cls(error_percent(probabilities, labels), ece_percent(probabilities, labels), nll(probabilities, labels))


@dataclass(frozen=True)
class Setting:
    """With what the three models answer: the mixture's theta and lam, the theta of the cache alone, and k."""

    theta: float
    lam: float
    k: int | None
    cache_theta: float

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        theta: float | None = None,
        lam: float | None = None,
        cache_theta: float | None = None,
        *,
        exact: bool = False,
    ) -> Setting:
        """Take the bundle's own, with some replaced.

        The cache alone has the theta that was fitted for it; a theta given for the mixture is the cache's too.

        Raises:
            ParameterError: a parameter is out of its range, or the network has no head and lam is not 1.
        """
        check_lam(lam, has_head=manifest.has_head)
        if cache_theta is None:
            cache_theta = cache_only_theta(manifest) if theta is None else theta
        setting = cls(
            manifest.theta if theta is None else theta,
            manifest.lam if lam is None else lam,
            None if exact else manifest.k,
            cache_theta,
        )
        check_parameters(setting.theta, setting.lam, setting.k)
        check_parameters(setting.cache_theta, setting.lam, setting.k)
        return setting

    def is_own(self, manifest: Manifest) -> bool:
        """Whether the mixture is the one that a server on the bundle answers with."""
        return (self.theta, self.lam, self.k) == (manifest.theta, manifest.lam, manifest.k)


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured."""

    count: int
    generation: str
    parameters: dict[str, float | None]
    network: Quality | None
    """None where it has no head: then it has no part in what follows either."""
    mixed: Quality
    cache_only: Quality
    dataset: str
    """Name and split."""
    error_intervals: dict[str, Interval]
    """Of each model's error, in percent."""
    fewer_errors: dict[str, Interval]
    """By how many points mixture and cache err less than the network, on the same images."""
    reliability: dict[str, Reliability]
    fit: FitReport | None
    """What the bundle's theta and lam were chosen from."""
    network_all_classes: Quality | None = None
    """Of the network where it knows more classes than the bundle: right is what all of those could not outdo."""
    in_holdout: int | None = 0
    """How many of the images its parameters were fitted on; None where an older bundle does not say."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what was tried on the holdout is the manifest's to tell."""
        return {
            "count": self.count,
            "in_holdout": self.in_holdout,
            "dataset": self.dataset,
            "generation": self.generation,
            "parameters": self.parameters,
            **{name: asdict(found) if (found := getattr(self, name)) else None for name in MODELS},
            **({"network_all_classes": asdict(self.network_all_classes)} if self.network_all_classes else {}),
            "error_intervals": {name: found._asdict() for name, found in self.error_intervals.items()},
            "fewer_errors": {name: found._asdict() for name, found in self.fewer_errors.items()},
            "reliability": {name: asdict(found) for name, found in self.reliability.items()},
        }

    def tables(self) -> list[Table]:
        """One: the three models."""
        p = self.parameters
        rows = []
        for name, style in MODELS.items():
            m, fewer = getattr(self, name), self.fewer_errors.get(name)
            if m is None:
                continue
            rows.append(
                (
                    style.label,
                    self.error_intervals[name].text(),
                    *([fewer.text() if fewer else ""] if self.network else []),
                    f"{m.ece_percent:.2f}",
                    f"{m.nll:.4f}",
                )
            )
        if (whole := self.network_all_classes) is not None:
            error = self.error_intervals["network_all_classes"].text()
            rows.append(("network, of all its classes", error, "", f"{whole.ece_percent:.2f}", f"{whole.nll:.4f}"))
        return [
            Table(
                f"{self.dataset}, {self.count:,} images, generation {self.generation}",
                ("", "error %", *(["less than the network's, points"] if self.network else []), "ECE %", "NLL"),
                tuple(rows),
                f"theta {p['theta']:g} (cache alone {p['cache_theta']:g}), lam {p['lam']:g}, k {p['k'] or 'all'}; "
                "in brackets 95 % bootstrap intervals over the images",
            )
        ]

    def figures(self) -> list[Figure]:
        """Reliability, and what theta and lam were chosen from."""
        found = [diagram(self.reliability)]
        if self.fit is not None:
            p = self.parameters
            k = None if p["k"] is None else int(p["k"])
            surface = surfaces(self.fit, p["theta"] or 0, p["lam"] or 0, k)
            found += [surface] if surface else []
        return found


def evaluate(
    bundle: Bundle,
    dataset: Dataset,
    theta: float | None = None,
    lam: float | None = None,
    cache_theta: float | None = None,
    *,
    exact: bool = False,
    images: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Classify a dataset (or some of its images) with a bundle, under its own parameters where no others are given.

    Raises:
        DatasetError: the dataset's classes are not the bundle's, it is what the bundle caches, or too many images are
            unreadable.
        ParameterError: a parameter is out of its range.
    """
    manifest = bundle.manifest
    dataset = unseen(dataset, manifest)
    setting = Setting.of(manifest, theta, lam, cache_theta, exact=exact)
    whole = _all_classes(bundle)
    asked = embed_queries(dataset, sample(dataset, images), bundle, progress, also=None if whole is None else whole.see)
    logits, keys, labels = asked.logits, asked.keys, asked.labels
    network = softmax(logits, len(manifest.classes))
    served = ServedCache.of_overlay(Overlay(bundle))
    votes = ask(served, keys, setting, progress)
    own = Parameters(manifest.theta, manifest.lam, manifest.k)
    if setting.is_own(manifest) and own.k is not None:
        # What the server does; the cache alone is another model, which no quick search was fitted for.
        novelty = manifest.calibration.novelty if manifest.calibration else None
        for start in range(0, len(keys), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            by_itself = own_evidence(novelty, logits[rows], network[rows], keys[rows], bundle.directions)
            votes[0, rows] = served.search_and_vote(keys[rows], network[rows], own, novelty, by_itself)[1]
    new = manifest.new_classes(len(manifest.classes)) if setting.is_own(manifest) else None
    models = opinions(network, votes, setting, new)
    wrong = {name: (said.argmax(axis=1) != labels).astype(np.float64) for name, said in models.items()}
    intervals = {name: bootstrap(100 * errs) for name, errs in wrong.items()}
    if whole is not None:
        intervals["network_all_classes"] = bootstrap(100 * whole.wrong(labels))
    return Evaluation(
        count=len(labels),
        generation=manifest.generation,
        parameters=asdict(setting),
        dataset=f"{dataset.name} {dataset.split}",
        error_intervals=intervals,
        fewer_errors={
            name: bootstrap(100 * (wrong["network"] - wrong[name]))
            for name in models
            if name != "network" and "network" in models
        },
        reliability={name: Reliability.of(said, labels) for name, said in models.items()},
        fit=manifest.fit,
        network_all_classes=None if whole is None else Quality(*whole.quality(labels)),
        in_holdout=_in_holdout(bundle, asked.looks),
        **{name: Quality.of(models[name], labels) if name in models else None for name in MODELS},  # type: ignore[arg-type]
    )


def _all_classes(bundle: Bundle) -> AllClasses | None:
    """What asks the network among all its classes, where those are more than the bundle's."""
    groups, engine = bundle.manifest.network.groups, bundle.engine
    if groups is None or not isinstance(engine, OnnxEngine) or engine.all_classes <= engine.classes:
        return None
    return AllClasses(engine, groups)


def _in_holdout(bundle: Bundle, asked: Looks) -> int | None:
    """How many of the images asked the bundle's parameters were fitted on, or copies of them."""
    looks = CachedLooks.read(bundle.path / LOOKS)
    if looks is not None:
        return int(copies_of(looks.fitted, asked).sum()) if looks.fitted is not None else 0
    return 0 if bundle.manifest.parameters_from == "given" else None


def unseen(dataset: Dataset, manifest: Manifest) -> Dataset:
    """A dataset to ask a bundle about: with its classes, and not what it caches.

    Raises:
        DatasetError: it has others, or is what is cached.
    """
    dataset = of_bundle(dataset, manifest)
    if dataset.split == "test" and dataset.content_hash() == manifest.dataset.sha256:
        raise DatasetError(
            f"{dataset.name} is what the bundle caches, each image would find itself: evaluate other images"
        )
    return dataset


def need_network(manifest: Manifest, what: str) -> None:
    """Refuse what is measured against the network, where that has no head.

    Raises:
        BundleError: it has none.
    """
    if not manifest.has_head:
        raise BundleError(
            f"{what} is measured against the network, and that of bundle {manifest.generation} has no head: index with "
            "--network NAME, one that knows these classes"
        )


def sample(dataset: Dataset, images: int | None, candidates: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return positions (n,) of so many images of a dataset, drawn at random but always the same; None = all of them."""
    positions = np.arange(len(dataset.labels)) if candidates is None else candidates
    if images is None or images >= len(positions):
        return positions
    return np.sort(np.random.default_rng(0).permutation(positions)[:images])


def ask(served: ServedCache, keys: Floats, setting: Setting, progress: Progress = silent) -> Floats:
    """Return p_cache (2,N,C) of keys (N,D): under the mixture's theta, and under that of the cache alone."""
    votes = np.empty((2, len(keys), served.classes), np.float32)
    thetas = (setting.theta, setting.cache_theta)
    for start in range(0, len(keys), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        if setting.k is None:
            votes[:, rows] = served.exact_vote(keys[rows], thetas)
        else:
            found = served.search(keys[rows], setting.k)
            votes[:, rows] = [served.vote(found.similarities, found.values, theta) for theta in thetas]
        progress("vote", min(start + QUERIES_AT_ONCE, len(keys)), len(keys))
    return votes


def opinions(network: Floats, votes: Floats, setting: Setting, new: Ints | None = None) -> dict[str, Floats]:
    """Return each model's p(y|x) (N,C), by its name in ``plots.MODELS``, from p_net (N,C) and the votes of ``ask``.

    ``new`` is as for ``mix``: given where the setting is the bundle's own. A network without a head, whose p_net is
    0, is none of them.
    """
    said = {"network": network, "mixed": mix(network, votes[0], setting.lam, new), "cache_only": votes[1]}
    return said if network.any() else {name: one for name, one in said.items() if name != "network"}
