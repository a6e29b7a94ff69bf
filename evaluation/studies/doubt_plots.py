"""What the study of doubt draws: ROC curves, novelty by kind of images, and sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secondlook.evaluation.statistics.conformal import Sets
from secondlook.indexer.plots import COLOURS, INK, MODELS

DRAWN = ("network", "energy", "novelty")
"""The scores that have ROC curves."""

BINS = 40

Roc = tuple[tuple[float, float], ...]


def draw_roc(kinds: Mapping[str, Mapping[str, Roc]], labels: Mapping[str, str]) -> Any:
    """A panel for each kind of unknown images, with each score's curve."""
    styles = {
        "network": MODELS["network"].colour,
        "energy": COLOURS[1],
        "novelty": MODELS["mixed"].colour,
    }
    lines = {"network": "--", "energy": "-.", "novelty": "-"}

    def draw(into: Any) -> None:
        panels = into.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, (kind, curves) in zip(panels, kinds.items(), strict=True):
            for name in DRAWN:
                known, unknown = zip(*curves[name], strict=True)
                axes.plot(known, unknown, lines[name], color=styles[name], label=labels[name])
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, alpha=0.6)
            axes.set(title=kind, xlabel="known images above the threshold", xlim=(0, 1), ylim=(0, 1.01))
        panels[0].set_ylabel("unknown images above it")
        handles, named = panels[0].get_legend_handles_labels()
        into.legend(handles, named, loc="outside lower center", ncols=len(DRAWN), fontsize=10)

    return draw


def draw_novelty(histograms: Mapping[str, Sequence[float]], threshold: float, highest: float) -> Any:
    """Shares of each kind of images by novelty, the known ones first, with the threshold."""

    def draw(into: Any) -> None:
        axes = into.subplots()
        edges = np.linspace(0, highest, BINS + 1)
        for i, (name, shares) in enumerate(histograms.items()):
            style = {"color": INK, "linewidth": 2} if i == 0 else {"color": COLOURS[i - 1], "linestyle": "--"}
            axes.stairs([100 * share for share in shares], edges, label=name, **style)
        axes.axvline(threshold, color=INK, linewidth=0.8, linestyle=":", label="threshold")
        axes.set(xlabel="novelty", ylabel="images, % of their kind", xlim=(0, highest))
        axes.legend()

    return draw


def draw_sets(sets: Sequence[Sets]) -> Any:
    """Coverage got against coverage asked, and labels in a set."""

    def draw(into: Any) -> None:
        left, right = into.subplots(1, 2)
        asked = [100 * s.asked for s in sets]
        got = [100 * s.got.value for s in sets]
        errors = (
            [100 * (s.got.value - s.got.low) for s in sets],
            [100 * (s.got.high - s.got.value) for s in sets],
        )
        left.plot(asked, asked, color=INK, linewidth=0.8, alpha=0.6)
        left.errorbar(asked, got, yerr=errors, fmt="o", color=MODELS["mixed"].colour, markersize=5, elinewidth=1)
        left.set(xlabel="asked, %", ylabel="sets that hold the right label, %")
        right.plot(asked, [s.size for s in sets], "o-", color=MODELS["mixed"].colour)
        right.axhline(1, color=INK, linewidth=0.8, alpha=0.6)
        right.set(xlabel="asked, %", ylabel="labels in a set, on average", ylim=(0, None))

    return draw
