"""How plots look: one message each, colours that colour-blind people can tell apart, no display needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#444444")
"""Okabe and Ito's palette, darkened where it would be pale on white."""


@contextmanager
def figure(path: Path, title: str) -> Iterator[Any]:
    """Axes to draw on; written to path (PNG) when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot

    style: dict[Any, Any] = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#DDDDDD",
        "axes.axisbelow": True,
        "font.size": 11,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        drawing, axes = pyplot.subplots(figsize=(8.0, 4.6), layout="constrained")
        drawing.suptitle(title, fontsize=13, x=0.02, ha="left")
        try:
            yield axes
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.savefig(path, dpi=110)
        finally:
            pyplot.close(drawing)
