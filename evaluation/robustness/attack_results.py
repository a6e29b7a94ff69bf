"""What attacks do to the three models: as data, as tables, and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.robustness import white_box
from secondlook.evaluation.robustness.attacks import LABELS, Attack
from secondlook.evaluation.robustness.models import NAMES
from secondlook.evaluation.robustness.white_box import Bounded
from secondlook.indexer.plots import MODELS
from secondlook.indexer.results import Figure, Table
from secondlook.model.intervals import Interval, bootstrap, wilson

METHODS = {"fgsm": "FGSM", "pgd": "PGD", "ensemble": "ensemble"}


@dataclass(frozen=True)
class Judged:
    """An attack on the network, and which models its images fool."""

    attack: Attack
    tried: int
    """Images that the network got right before."""
    sizes: NDArray[np.float64]
    """(m,) of the images that fool the network: norm of the perturbation by norm of the image, normalised pixels."""
    right: dict[str, NDArray[np.bool_]]
    """For each model (m,)."""

    @property
    def gain(self) -> Interval | None:
        """How much more often cache only is right than the mixture; None where there are no images to tell by."""
        if not len(self.sizes):
            return None
        return bootstrap(self.right["cache_only"].astype(float) - self.right["mixed"])

    @property
    def holds(self) -> bool | None:
        """Whether cache only withstands it best, as the paper says; None where the interval reaches over 0."""
        gain = self.gain
        return gain.value > 0 if gain is not None and gain.excludes(0) else None


@dataclass(frozen=True)
class Example:
    """An image, what became of it, and what the models say then."""

    attack: Attack
    before: NDArray[np.float32]
    """(H,W,3), 0 to 1."""
    after: NDArray[np.float32]
    label: str
    said: dict[str, tuple[str, float]]
    """For each model its class and that one's probability."""


@dataclass(frozen=True)
class AttackStudy:
    """What attacks on N images of a dataset do to the three models."""

    dataset: str
    split: str
    generation: str
    parameters: dict[str, float | None]
    preset: str
    clean: dict[str, NDArray[np.bool_]]
    """For each model (N,): whether it is right on the images as they are."""
    judged: tuple[Judged, ...]
    transfer: tuple[Bounded, ...]
    white_box: tuple[Bounded, ...]
    examples: tuple[Example, ...]

    @property
    def count(self) -> int:
        """Images."""
        return len(self.clean["network"])

    def as_dict(self) -> dict[str, Any]:
        """Accuracies with Wilson's intervals (as shares), differences with bootstrap intervals; no images."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "generation": self.generation,
            "parameters": self.parameters,
            "preset": self.preset,
            "count": self.count,
            "clean": {name: _share(self.clean[name])._asdict() for name in NAMES},
            "attacks": [
                {
                    "attack": j.attack,
                    "tried": j.tried,
                    "fooled": len(j.sizes),
                    "mean_size": float(j.sizes.mean()) if len(j.sizes) else None,
                    "median_size": float(np.median(j.sizes)) if len(j.sizes) else None,
                    **{name: _share(j.right[name])._asdict() if len(j.sizes) else None for name in NAMES},
                    "cache_only_above_mixed": j.gain._asdict() if j.gain else None,
                    "holds": j.holds,
                }
                for j in self.judged
            ],
            "transfer": [_bounded_dict(b) for b in self.transfer],
            "white_box": [_bounded_dict(b) for b in self.white_box],
        }

    def tables(self) -> list[Table]:
        """By attack and model; by size; and each model attacked itself."""
        found = []
        if self.judged:
            found.append(self._judged_table())
        if self.transfer:
            found.append(self._transfer_table())
        if self.white_box:
            found.append(self._white_box_table())
        return found

    def _judged_table(self) -> Table:
        p = self.parameters
        columns = ("attack", "fooled", "median size %", *(f"{s.label} %" for s in MODELS.values()))
        rows = tuple(
            (
                LABELS[j.attack],
                f"{len(j.sizes):,} of {j.tried:,}",
                f"{100 * np.median(j.sizes):.2f}" if len(j.sizes) else "none",
                *(_percent(_share(j.right[name])) if len(j.sizes) else "none" for name in NAMES),
                "none" if j.gain is None else _percent(j.gain),
                {True: "holds", False: "the other way", None: "not decided"}[j.holds],
            )
            for j in self.judged
        )
        clean = ("none", "", "", *(_percent(_share(self.clean[name])) for name in NAMES), "", "")
        return Table(
            "Right on images that fool the network",
            (*columns, "cache only less mixed", "cache only most robust"),
            (clean, *rows),
            f"{self.dataset} {self.split}, {self.count:,} images, preset {self.preset}: the smallest perturbation of "
            f"the preset's grid that fools the network; theta {p['theta']:g} (cache only {p['cache_theta']:g}), lam "
            f"{p['lam']:g}, k {p['k'] or 'all'}. Size: norm of the perturbation by norm of the image, normalised "
            "pixels. 95 % intervals: Wilson's, for the difference bootstrap. The network is wrong on all by "
            "construction; an image barely across its border is one that any other model may well get right.",
        )

    def _transfer_table(self) -> Table:
        rows = tuple(
            (f"{METHODS[b.method]}, {b.epsilon:g}", *(_percent(_share(b.right[name])) for name in NAMES))
            for b in self.transfer
        )
        clean = ("none, 0", *(_percent(_share(self.clean[name])) for name in NAMES))
        return Table(
            "Right by size of the attack, made against the network",
            ("attack, largest change of a pixel", *(f"{s.label} %" for s in MODELS.values())),
            (clean, *rows),
            f"{self.count:,} images, of which none is left out; pixels go from 0 to 255. PGD: "
            f"{white_box.TRANSFER_STEPS} steps. 95 % intervals: Wilson's.",
        )

    def _white_box_table(self) -> Table:
        rows = tuple(
            (
                f"{METHODS[method]}, {epsilon:g}",
                *(
                    _percent(_share(b.right[b.target]))
                    for name in NAMES
                    for b in self.white_box
                    if (b.method, b.epsilon, b.target) == (method, epsilon, name)
                ),
            )
            for method in ("pgd", "ensemble")
            for epsilon in sorted({b.epsilon for b in self.white_box})
        )
        return Table(
            "Right when the attacker follows the model's own gradient",
            ("attack, largest change of a pixel", *(f"{s.label} %" for s in MODELS.values())),
            rows,
            f"{self.count:,} images; pixels go from 0 to 255. Each model is attacked itself, through the cache's vote. "
            f"{white_box.STEPS} steps; ensemble: PGD, APGD on cross-entropy and on DLR. A patient attacker gets "
            "further: these are bounds from above. 95 % intervals: Wilson's.",
        )

    def figures(self) -> list[Figure]:
        """Accuracies by attack, by size, of each model attacked itself, and examples."""
        found = []
        if shown := [j for j in self.judged if len(j.sizes)]:
            held = sum(j.holds is True for j in shown)
            found.append(
                Figure(
                    "attacks",
                    f"Cache only is right most often under {held} of {len(shown)} attacks on the network",
                    partial(self._draw_judged, shown=shown),
                    "Share of images that fool the network which each model gets right: "
                    + "; ".join(
                        f"{LABELS[j.attack]}: "
                        + ", ".join(f"{s.label} {100 * j.right[n].mean():.0f} %" for n, s in MODELS.items())
                        for j in shown
                    ),
                )
            )
        if self.transfer:
            found.append(
                Figure(
                    "attacks-by-size",
                    "Attacks on the network by their size: what still holds, all images counted",
                    lambda into: self._draw_bounded(into, self.transfer, ("fgsm", "pgd")),
                    "Share right by the largest change of a pixel, FGSM and PGD made against the network.",
                    (10.0, 4.2),
                )
            )
        if self.white_box:
            last = max(b.epsilon for b in self.white_box)
            most = max(float(b.right[b.target].mean()) for b in self.white_box if b.epsilon == last)
            found.append(
                Figure(
                    "attacks-white-box",
                    f"With its own gradient, at {last:g} of 255, no model is right on more than {100 * most:.0f} %",
                    lambda into: self._draw_bounded(into, self.white_box, ("pgd", "ensemble")),
                    "Share right by the largest change of a pixel, each model attacked through its own gradient.",
                    (10.0, 4.2),
                )
            )
        if self.examples:
            found.append(
                Figure(
                    "attacked-images",
                    "What fools the network: image, change, and what the models say",
                    self._draw_examples,
                    "; ".join(
                        f"{LABELS[e.attack]}, a {e.label}: "
                        + ", ".join(f"{MODELS[n].label} says {c}" for n, (c, _) in e.said.items())
                        for e in self.examples
                    ),
                    (8.0, 2.0 * len(self.examples)),
                )
            )
        return found

    def _draw_judged(self, into: Any, shown: Sequence[Judged]) -> None:
        axes = into.subplots()
        for place, (name, style) in enumerate(MODELS.items()):
            shares = [_share(j.right[name]) for j in shown]
            at = np.arange(len(shown)) + 0.2 * (place - 1)
            value = np.array([100 * s.value for s in shares])
            around = [value - [100 * s.low for s in shares], [100 * s.high for s in shares] - value]
            axes.errorbar(
                at, value, around, color=style.colour, marker=style.marker, linestyle="", capsize=4, label=style.label
            )
        axes.set_xticks(range(len(shown)), [LABELS[j.attack] for j in shown])
        axes.set_ylabel("% right")
        axes.set_ylim(-3, 100)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper right", ncols=3)

    def _draw_bounded(self, into: Any, shown: Sequence[Bounded], methods: Sequence[str]) -> None:
        panels = into.subplots(1, len(methods), sharey=True)
        for axes, method in zip(panels, methods, strict=True):
            for name, style in MODELS.items():
                points = [(b.epsilon, b.right[name]) for b in shown if b.method == method and name in b.right]
                points = [(0.0, self.clean[name]), *points]
                shares = [_share(right) for _, right in points]
                sizes = [size for size, _ in points]
                axes.plot(sizes, [100 * s.value for s in shares], markersize=5, **style.keywords)
                low, high = ([100 * getattr(s, end) for s in shares] for end in ("low", "high"))
                axes.fill_between(sizes, low, high, color=style.colour, alpha=0.12, linewidth=0)
            axes.set_title(METHODS[method])
            axes.set_xlabel("largest change of a pixel, of 255")
            axes.set_ylim(0, 100)
        panels[0].set_ylabel("% right")
        panels[0].legend()

    def _draw_examples(self, into: Any) -> None:
        rows = into.subplots(len(self.examples), 4, squeeze=False, width_ratios=(1, 1, 1, 2.4))
        for (before, change, after, words), example in zip(rows, self.examples, strict=True):
            difference = example.after - example.before
            scale = 0.5 / max(float(np.abs(difference).max()), 1e-6)
            for axes, picture, title in (
                (before, example.before, example.label),
                (change, 0.5 + scale * difference, f"change x {scale:.3g}"),
                (after, example.after, LABELS[example.attack]),
            ):
                axes.imshow(np.clip(picture, 0, 1))
                axes.set_title(title, fontsize=9)
                axes.axis("off")
            words.axis("off")
            for line, (name, (said, probability)) in enumerate(example.said.items()):
                words.text(
                    0,
                    0.75 - 0.3 * line,
                    f"{MODELS[name].label}: {said}, {100 * probability:.0f} %",
                    color=MODELS[name].colour,
                    fontsize=10,
                    transform=words.transAxes,
                )


def _share(right: NDArray[np.bool_]) -> Interval:
    return wilson(int(right.sum()), len(right))


def _percent(interval: Interval) -> str:
    return Interval(*(100 * value for value in interval)).text(1)


def _bounded_dict(bounded: Bounded) -> dict[str, Any]:
    return {
        "method": bounded.method,
        "target": bounded.target,
        "epsilon": bounded.epsilon,
        **{name: _share(right)._asdict() for name, right in bounded.right.items()},
    }
