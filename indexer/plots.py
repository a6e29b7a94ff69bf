"""How plots look: one message each, colours that colour-blind people can tell apart, no display needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#444444")
"""Okabe and Ito's palette, darkened where it would be pale on white."""

INK, GRID = "#222222", "#DDDDDD"


@dataclass(frozen=True)
class ModelStyle:
    """How one of the three models looks in every plot: told apart by colour, marker and line, each alone enough."""

    label: str
    colour: str
    marker: str
    line: str

    @property
    def keywords(self) -> dict[str, Any]:
        """For ``axes.plot``, as in ``axes.plot(x, y, **MODELS["mixed"].keywords)``."""
        return {"label": self.label, "color": self.colour, "marker": self.marker, "linestyle": self.line}


MODELS = {
    "network": ModelStyle("network", "#444444", "s", "--"),
    "mixed": ModelStyle("mixed", "#0072B2", "o", "-"),
    "cache_only": ModelStyle("cache only", "#D55E00", "^", "-."),
}
"""The three models by the names that results use, in the order in which tables and legends list them."""


@contextmanager
def drawing(size: tuple[float, float] = (8.0, 4.6), title: str = "") -> Iterator[Any]:
    """An empty matplotlib figure, size in inches, under this project's style; closed when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rcsetup

    style: dict[Any, Any] = {
        "axes.prop_cycle": rcsetup.cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "font.size": 11,
        "legend.frameon": False,
        # Text stays text: small files, and a page's own fonts and colours.
        "svg.fonttype": "none",
        "svg.hashsalt": "secondlook",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        made = pyplot.figure(figsize=size, layout="constrained")
        if title:
            made.suptitle(title, fontsize=13, x=0.02, ha="left")
        try:
            yield made
        finally:
            pyplot.close(made)
