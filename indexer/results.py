"""What every part of the evaluation gives back: its figures as data, as tables, and as plots."""

from __future__ import annotations

import html
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from secondlook.indexer.plots import GRID, INK, MODELS, drawing


@dataclass(frozen=True)
class Table:
    """Cells as they are read; the first column names the row, the others hold figures (or more names)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What a reader must know to read it: how many images, which intervals, what was left out."""
    names: int = 1
    """Columns, from the left, that name a row."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row of {len(row)} cells under {len(self.columns)} columns")

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=Text(self.title), caption=Text(self.note) if self.note else None)
        for place, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if place >= self.names else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def html(self) -> str:
        """For a page: every text is escaped; the note stands below."""

        def cells(row: tuple[str, ...], kinds: tuple[str, str]) -> str:
            name, figure = kinds
            made = [(name if place < self.names else figure, cell) for place, cell in enumerate(row)]
            return "".join(f"<{kind}>{html.escape(cell)}</{kind.partition(' ')[0]}>" for kind, cell in made)

        head = cells(self.columns, ('th scope="col" class="name"', 'th scope="col"'))
        body = "".join("<tr>" + cells(row, ('th scope="row"', "td")) + "</tr>" for row in self.rows)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="table"><table><caption>{html.escape(self.title)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
        )


@dataclass(frozen=True)
class Figure:
    """One plot with one message, which its title says.

    ``draw`` gets an empty matplotlib figure and adds axes to it (``into.subplots(1, 3)``), with the colours of
    ``plots.MODELS``; it gives it no title. ``name`` becomes a file's name, ``alt`` says in words what is to be seen.
    """

    name: str
    title: str
    draw: Callable[[Any], None]
    alt: str
    size: tuple[float, float] = (8.0, 4.6)
    """Width and height in inches."""

    def write(self, path: Path) -> None:
        """Write a PNG (or what the path's suffix names), its title above it."""
        with drawing(self.size, self.title) as made:
            self.draw(made)
            path.parent.mkdir(parents=True, exist_ok=True)
            made.savefig(path, dpi=110)

    def svg(self, whose: str = "") -> str:
        """An ``<svg>`` element for a page, without title, its ids those of no figure of another name (or owner).

        The page's CSS variables ``--ink``, ``--grid``, ``--network``, ``--mixed`` and ``--cache_only`` colour it.
        """
        text = io.StringIO()
        with drawing(self.size) as made:
            self.draw(made)
            made.savefig(text, format="svg", transparent=True)
        drawn = text.getvalue()
        # A style element inside would rule over the whole page.
        drawn = re.sub(r"<(metadata|style)\b.*?</\1>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawn))
        drawn = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", drawn)
        drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{whose}{self.name}-", drawn)
        # The size in inches would keep it from fitting a narrow page: the view box says the same.
        head = f'<svg role="img" aria-label="{html.escape(self.alt)}"'
        drawn = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*" ?([^>]*?)(?:width|height)="[^"]*"', r"<svg \1\2", drawn)
        colours = {INK: "ink", GRID: "grid", **{style.colour: name for name, style in MODELS.items()}}
        for colour, name in colours.items():
            drawn = re.sub(colour, f"var(--{name}, {colour.lower()})", drawn, flags=re.IGNORECASE)
        return drawn.replace("<svg", head, 1)


class Study(Protocol):
    """The result of one part of the evaluation."""

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON: numbers, lists, strings, None."""

    def tables(self) -> list[Table]:
        """Its tables, the most important first."""

    def figures(self) -> list[Figure]:
        """Its plots, the most important first."""


def console() -> Console:
    """Standard output, for tables."""
    # Where nobody watches, tables need not fit a narrow screen.
    return Console() if sys.stdout.isatty() else Console(width=160)


def show(study: Study) -> None:
    """Print the tables to standard output."""
    for table in study.tables():
        console().print(table.rich())


def write(study: Study, folder: Path, name: str) -> list[Path]:
    """Write ``name.json`` and a PNG a figure into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.json"]
    written[0].write_text(json.dumps(study.as_dict(), indent=1, allow_nan=False) + "\n")
    for figure in study.figures():
        written.append(folder / f"{figure.name}.png")
        figure.write(written[-1])
    return written
