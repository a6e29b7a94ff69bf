"""The grid that a bundle was fitted on: the cache's own theta, and heat maps of error and likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np

from secondlook.indexer.plots import GRID, INK
from secondlook.indexer.results import Figure
from secondlook.model.manifest import FitReport, Manifest


def best_alone(report: FitReport, k: int | None) -> float:
    """Return the theta of lowest negative log-likelihood at lam = 1.

    Raises:
        ValueError: that k, or lam = 1, was not tried.
    """
    plane, alone = report.nll[report.ks.index(k)], report.lams.index(1.0)
    return min(zip(plane, report.thetas, strict=True), key=lambda row: row[0][alone])[1]


def cache_only_theta(manifest: Manifest) -> float:
    """The theta fitted for the cache alone at the bundle's k; the mixture's own where nothing was fitted at that k."""
    report = manifest.fit
    if report is None or manifest.k not in report.ks or 1.0 not in report.lams:
        return manifest.theta
    return best_alone(report, manifest.k)


def surfaces(report: FitReport, theta: float, lam: float, k: int | None) -> Figure | None:
    """Draw heat maps of error and negative log-likelihood over theta and lam, a cross at the pair in use.

    None where that k was not tried, or one lam only.
    """
    if k not in report.ks or len(report.lams) < 2:
        return None
    place = report.ks.index(k)
    panels = (
        ("error, %", np.array(report.error_percent[place])),
        ("negative log-likelihood", np.array(report.nll[place])),
    )
    better = 100 * float((panels[0][1] < panels[0][1][:, :1]).mean())

    def draw(into: Any) -> None:
        from matplotlib import colormaps

        colours = colormaps["cividis_r"].with_extremes(over=GRID)
        rows = np.arange(len(report.thetas))
        columns = np.arange(len(report.lams))
        for axes, (name, cells) in zip(into.subplots(1, 2, sharey=True), panels, strict=True):
            # Beyond the network's own value the differences say nothing; those cells are grey.
            network = float(cells[:, 0].mean())
            lowest = float(cells.min())
            shown = axes.pcolormesh(columns, rows, cells, cmap=colours, vmin=lowest, vmax=max(network, lowest + 1e-9))
            axes.grid(visible=False)
            axes.set_title(name)
            axes.set_xlabel("lam")
            axes.set_xticks(columns[:: max(1, len(columns) // 5)])
            axes.set_xticklabels([f"{report.lams[i]:g}" for i in columns[:: max(1, len(columns) // 5)]])
            bar = into.colorbar(shown, ax=axes, extend="max")
            bar.outline.set_edgecolor(INK)
            if theta in report.thetas and lam in report.lams:
                at = report.lams.index(lam), report.thetas.index(theta)
                axes.plot(*at, marker="X", markersize=11, color="white", markeredgecolor="black")
        first = into.axes[0]
        first.set_ylabel("theta")
        first.set_yticks(rows[::2])
        first.set_yticklabels([f"{report.thetas[i]:g}" for i in rows[::2]])

    return Figure(
        "theta-lam",
        f"Holdout: {better:.0f} % of all pairs of theta and lam err less than the network alone (grey: not better)",
        draw,
        f"Two heat maps over theta and lam at k {k or 'all'}: error and negative log-likelihood on "
        f"{report.images:,} held-out images; a cross marks theta {theta:g}, lam {lam:g}.",
        (9.0, 4.8),
    )
