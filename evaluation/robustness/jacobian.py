"""How sharply the three models' probabilities move with the pixels: the paper's third figure.

The Jacobian of an image is the matrix of derivatives of the C class probabilities by its n normalised pixels. Of the
cache (``model.cache``) it is, by the key q first::

    d p_cache(c) / dq = theta (sum_i w_i [v_i = c] k_i - p_cache(c) sum_i w_i k_i),  w_i = entry i's share of the vote

which ``models.KeyCache`` gives for all classes at once; from the key to the pixels it is a vector-Jacobian product of
the encoder, as the network's own is from its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondlook.evaluation.evaluate import sample
from secondlook.evaluation.robustness.models import WORKING_BYTES, Models
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.plots import MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.errors import DatasetError
from secondlook.model.intervals import Interval, bootstrap, wilson
from secondlook.model.memory import check_memory
from secondlook.model.stores.store import CHUNK_BYTES

MAX_BATCH = 64

ACTIVATION_BYTES = 8 << 20
"""What an image's way back through a ResNet-32 keeps, about."""

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class JacobianStudy:
    """Norms and singular values of the Jacobians of N images under the three models."""

    dataset: str
    split: str
    generation: str
    parameters: dict[str, float | None]
    correct: dict[str, NDArray[np.bool_]]
    """For each model (N,): whether it classifies the image right."""
    spectra: dict[str, NDArray[np.float64]]
    """For each model (N,C'): singular values, largest first."""

    @property
    def count(self) -> int:
        """Images."""
        return len(self.spectra["network"])

    @cached_property
    def norms(self) -> dict[str, NDArray[np.float64]]:
        """For each model (N,): Frobenius norms."""
        return {name: np.linalg.norm(values, axis=1) for name, values in self.spectra.items()}

    def firsts(self, model: str) -> NDArray[np.float64]:
        """First singular values (N,)."""
        return self.spectra[model][:, 0]

    def as_dict(self) -> dict[str, Any]:
        """Means with their intervals, orderings, and the norms and first singular values of every image."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "generation": self.generation,
            "count": self.count,
            "parameters": self.parameters,
            **{
                name: {
                    "norm": bootstrap(self.norms[name])._asdict(),
                    "median_norm": float(np.median(self.norms[name])),
                    "first_singular_value": bootstrap(self.firsts(name))._asdict(),
                    "median_first_singular_value": float(np.median(self.firsts(name))),
                    "spectrum": self.spectra[name].mean(axis=0).tolist(),
                    "error_percent": 100 * float((~self.correct[name]).mean()),
                    "norms": np.round(self.norms[name], 6).tolist(),
                    "first_singular_values": np.round(self.firsts(name), 6).tolist(),
                }
                for name in MODELS
            },
            "orderings": [
                {
                    "claim": ordering.claim,
                    "difference": ordering.difference._asdict(),
                    "share_of_images": ordering.share._asdict(),
                    "holds": ordering.holds,
                }
                for ordering in self.orderings()
            ],
        }

    def orderings(self) -> list[Ordering]:
        """What the paper says is smaller, each pair compared on the same images."""
        pairs = (
            ("first singular value", "mixed", "network", self.firsts),
            ("first singular value", "mixed", "cache_only", self.firsts),
            ("norm", "cache_only", "network", self.norms.__getitem__),
            ("norm", "cache_only", "mixed", self.norms.__getitem__),
        )
        return [
            Ordering.of(f"{what}: {MODELS[small].label} below {MODELS[large].label}", values(small), values(large))
            for what, small, large, values in pairs
        ]

    def tables(self) -> list[Table]:
        """Means and medians by model, and the orderings."""
        p = self.parameters
        note = (
            f"{self.dataset} {self.split}, {self.count:,} images, probabilities by normalised pixels; theta "
            f"{p['theta']:g} (cache only {p['cache_theta']:g}), lam {p['lam']:g}, k {p['k'] or 'all'}; "
            "means with 95 % bootstrap intervals over images."
        )
        if self.split == "train":
            note += " Images that are cached find themselves, at similarity 1."
        rows = tuple(
            (
                style.label,
                bootstrap(self.norms[name]).text(3),
                f"{np.median(self.norms[name]):.3f}",
                bootstrap(self.firsts(name)).text(3),
                f"{np.median(self.firsts(name)):.3f}",
            )
            for name, style in MODELS.items()
        )
        columns = ("model", "mean norm", "median norm", "mean first singular value", "its median")
        orderings = tuple((o.claim, o.difference.text(3), o.share_text, o.verdict) for o in self.orderings())
        return [
            Table("Jacobians", columns, rows, note),
            Table(
                "The orderings of the paper",
                ("claim", "mean difference", "images where it holds", "in the mean"),
                orderings,
                "Differences are between the two models on the same images, with 95 % bootstrap intervals; "
                "shares with Wilson's.",
            ),
        ]

    def figures(self) -> list[Figure]:
        """The three panels of the paper's figure."""
        means = {name: bootstrap(self.norms[name]).value for name in MODELS}
        first = {name: self.firsts(name).mean() for name in MODELS}
        told = ", ".join(f"{style.label} {means[name]:.2f}" for name, style in MODELS.items())
        spectra = ", ".join(f"{style.label} {first[name]:.2f}" for name, style in MODELS.items())
        return [
            Figure(
                "jacobian",
                f"How sharply probabilities move with pixels, mean norm: {told}",
                self._draw,
                "Three panels: mean norm, mean singular values, and norm of each image against the network's. "
                f"Mean norm: {told}; mean first singular value: {spectra}.",
                (12.0, 4.2),
            )
        ]

    def _draw(self, into: Any) -> None:
        bars, spectrum, each = into.subplots(1, 3)
        bars.set_title("Mean norm")
        for place, (name, style) in enumerate(MODELS.items()):
            mean = bootstrap(self.norms[name])
            around = [[mean.value - mean.low], [mean.high - mean.value]]
            bars.bar(place, mean.value, 0.6, color=style.colour)
            bars.errorbar(place, mean.value, around, color="#888888", capsize=5, linewidth=2)
        bars.set_xticks(range(len(MODELS)), [style.label for style in MODELS.values()])
        bars.grid(axis="x", visible=False)
        spectrum.set_title("Mean singular values")
        spectrum.set_xlabel("place")
        shown = self.spectra["network"].shape[1] - 1  # probabilities sum to 1, so the last is 0
        for name, style in MODELS.items():
            values = self.spectra[name].mean(axis=0)[: max(1, shown)]
            spectrum.plot(np.arange(1, len(values) + 1), values, markersize=5, **style.keywords)
        spectrum.set_yscale("log")
        spectrum.legend()
        floor = 1e-4  # a network that is sure has Jacobians of 0, which a logarithm cannot show
        each.set_title("Norm of each image")
        each.set_xlabel(f"network (below {floor:g}: at the edge)")
        network = np.maximum(self.norms["network"], floor)
        for name in ("mixed", "cache_only"):
            style = MODELS[name]
            theirs = np.maximum(self.norms[name], floor)
            each.scatter(
                network, theirs, 9, style.colour, marker=style.marker, alpha=0.5, linewidths=0, label=style.label
            )
        ends = (floor, float(max(norms.max() for norms in self.norms.values())) * 1.3)
        each.plot(ends, ends, color=MODELS["network"].colour, linestyle="--", linewidth=1, label="equal to the network")
        each.set_xscale("log")
        each.set_yscale("log")
        each.legend(fontsize=9)


@dataclass(frozen=True)
class Ordering:
    """A claim that one quantity is smaller than another, on the same images."""

    claim: str
    difference: Interval
    """Mean of smaller - larger: below 0 where the claim holds in the mean."""
    share: Interval
    """Of the images where it holds."""

    @classmethod
    def of(cls, claim: str, smaller: NDArray[np.float64], larger: NDArray[np.float64]) -> Ordering:
        """Compare two quantities (N,) of the same images."""
        return cls(claim, bootstrap(smaller - larger), wilson(int((smaller < larger).sum()), len(smaller)))

    @property
    def holds(self) -> bool | None:
        """In the mean; None where the interval reaches over 0."""
        return self.difference.value < 0 if self.difference.excludes(0) else None

    @property
    def verdict(self) -> str:
        """The same as a word."""
        return {True: "holds", False: "the other way", None: "not decided"}[self.holds]

    @property
    def share_text(self) -> str:
        """The share of images, in percent."""
        return Interval(*(100 * value for value in self.share)).text(1) + " %"


def jacobians(
    bundle: Bundle, models: Models, dataset: Dataset, images: int, progress: Progress = silent
) -> JacobianStudy:
    """Measure Jacobians of so many images of a dataset under a bundle's models.

    The images are drawn with a fixed seed, all where there are fewer. With k, the k nearest entries
    vote, and which they are is taken as fixed.

    Raises:
        DatasetError: the dataset's classes are not the bundle's, or none of its images is readable.
        MemoryLimitError: not even one image at a time fits.
    """
    manifest = bundle.manifest
    dataset = of_bundle(dataset, manifest)
    cache = models.cache
    # For each class, gradients under two thetas and what is made of them; then similarities and shares.
    one = ACTIVATION_BYTES + len(manifest.classes) * 4 * (4 * cache.dim + 4 * PIXELS) + 3 * 4 * cache.count
    at_once = max(1, min(MAX_BATCH, WORKING_BYTES // one))
    check_memory(
        at_once * one + 4 * CHUNK_BYTES,
        f"{at_once} Jacobians at a time of {len(manifest.classes)} classes by keys of {cache.dim:,} numbers",
        "close other programs, or use a bundle of the compact recipe",
    )
    wanted = sample(dataset, images)
    found: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float64]]]] = {name: [] for name in MODELS}
    done = 0
    progress("jacobian", 0, len(wanted))
    for positions, pixels in batches(dataset, wanted, bundle.geometry, at_once):
        labels = dataset.labels[positions]
        for name, (probabilities, matrices) in of_batch(models, torch.from_numpy(pixels)).items():
            right = probabilities.argmax(1).cpu().numpy() == labels
            found[name].append((right, torch.linalg.svdvals(matrices.double()).cpu().numpy()))
        done += len(positions)
        progress("jacobian", done, len(wanted))
    if not done:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    return JacobianStudy(
        dataset.name,
        dataset.split,
        manifest.generation,
        {"theta": models.theta, "lam": models.lam, "k": models.k, "cache_theta": models.cache_theta},
        correct={name: np.concatenate([right for right, _ in parts]) for name, parts in found.items()},
        spectra={name: np.concatenate([values for _, values in parts]) for name, parts in found.items()},
    )


def of_batch(models: Models, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each model's probabilities (B,C) and Jacobians (B,C,n), for images (B,H,W,3) uint8."""
    x = models.encoder.network.normalize(images.to(models.cache.place.device))

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        logits, keys = models.encode_normalized(x)
        return logits.softmax(1), keys

    (network, keys), pull, *_ = torch.func.vjp(encode, x)
    votes, slopes = zip(
        *(_vote_slopes(models, keys, theta) for theta in (models.theta, models.cache_theta)), strict=True
    )

    def pulled(of_network: Tensor, of_keys: Tensor) -> Tensor:
        """Derivatives by pixels (B,C,n), from those by probabilities (B,C,C) and by keys (B,C,D)."""
        # A class at a time for the whole batch: vmap over classes took 1.5 times as long on a processor.
        rows = [pull((of_network[:, c], of_keys[:, c]))[0] for c in range(network.shape[1])]
        return torch.stack(rows, 1).flatten(2)

    each = torch.eye(network.shape[1], device=network.device).expand(len(network), -1, -1)
    own = pulled(each, torch.zeros_like(slopes[0]))
    mixed, cache_only = (pulled(torch.zeros_like(each), slope) for slope in slopes)
    lam = models.lam
    return {
        "network": (network, own),
        "mixed": ((1 - lam) * network + lam * votes[0], (1 - lam) * own + lam * mixed),
        "cache_only": (votes[1], cache_only),
    }


def _vote_slopes(models: Models, keys: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """p_cache (B,C) and its derivatives by the key (B,C,D)."""
    scores, gradients = models.cache.score_gradients(keys, theta, models.k)
    votes = scores.softmax(1)
    # d softmax: p_c times (class c's gradient - the mean gradient of all classes, each by its probability).
    return votes, votes[..., None] * (gradients - torch.einsum("bc,bcd->bd", votes, gradients)[:, None])
