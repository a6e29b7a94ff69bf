"""Reliability diagrams: how often a model is right, by how sure it is (Guo et al., 2017, figure 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from secondlook.indexer.plots import GRID, MODELS
from secondlook.indexer.results import Figure
from secondlook.model.cache import Floats, Ints
from secondlook.model.intervals import wilson
from secondlook.model.scoring import ECE_BINS, confidence_bins


@dataclass(frozen=True)
class Reliability:
    """Images by confidence, in bins of equal width; a bin without images has the confidence and accuracy 0."""

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    """Mean largest probability of each bin's images."""
    right: tuple[int, ...]
    """How many of them are classified rightly."""

    @classmethod
    def of(cls, probabilities: Floats, labels: Ints) -> Reliability:
        """Count probabilities (N,C) and labels (N,) in bins."""
        counts, confidence, right = confidence_bins(probabilities, labels)
        means = confidence / np.maximum(counts, 1)
        return cls(tuple(counts.tolist()), tuple(means.tolist()), tuple(right.tolist()))

    @property
    def ece_percent(self) -> float:
        """The calibration error that these bins make."""
        gaps = (abs(n * sure - hits) for n, sure, hits in zip(self.counts, self.confidence, self.right, strict=True))
        return 100 * sum(gaps) / sum(self.counts)


def diagram(of: dict[str, Reliability]) -> Figure:
    """Draw a panel a model: accuracy against confidence with 95 % intervals, and the share of images in each bin."""

    def draw(into: Any) -> None:
        for axes, (name, found) in zip(into.subplots(1, len(of), sharey=True), of.items(), strict=True):
            style = MODELS[name]
            total = sum(found.counts)
            centres = (np.arange(len(found.counts)) + 0.5) / len(found.counts)
            shares = [n / total for n in found.counts]
            axes.bar(centres, shares, width=0.9 / len(centres), color=GRID, label="share of images")
            axes.plot([0, 1], [0, 1], color=style.colour, linewidth=0.8, alpha=0.6)
            filled = [i for i, n in enumerate(found.counts) if n]
            intervals = [wilson(found.right[i], found.counts[i]) for i in filled]
            values = [interval.value for interval in intervals]
            axes.errorbar(
                [found.confidence[i] for i in filled],
                values,
                yerr=(
                    [i.value - i.low for i in intervals],
                    [i.high - i.value for i in intervals],
                ),
                fmt=style.marker,
                color=style.colour,
                markersize=5,
                elinewidth=1,
                label="accuracy",
            )
            axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", title=f"{style.label}: ECE {_ece(found)}")
        into.axes[0].set_ylabel("share right")
        into.axes[0].legend(loc="upper left", fontsize=9)

    errors = ", ".join(
        f"of the {name} {_ece(of[key])}" for key, name in (("network", "network"), ("mixed", "mixture")) if key in of
    )
    return Figure(
        "reliability",
        f"Calibration error {errors} (on the line: honest)",
        draw,
        f"Accuracy against confidence in {ECE_BINS} bins for each model, with the line on which they are equal. "
        + "; ".join(f"{MODELS[name].label} ECE {_ece(found)}" for name, found in of.items()),
        (10.0, 3.9),
    )


def _ece(found: Reliability) -> str:
    return f"{found.ece_percent:.2f} %"
