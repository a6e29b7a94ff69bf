"""Contact sheets: what an audit found as pictures with a few words below each, drawn without matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from secondlook.curation.audit import Audit
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.plots import INK
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.errors import ImageError
from secondlook.model.images import decode
from secondlook.model.journal import ACCEPTED, Journal
from secondlook.model.stores.added_keys import number_of

Show = Callable[[int, str], Image.Image | None]
"""The picture of an entry by its id and source, where there is one."""

SIDE, GAP, LINE, ACROSS = 128, 14, 17, 6
PAPER, MUTED, EMPTY = "#FFFFFF", "#555555", "#E8E8E8"


class Cell(NamedTuple):
    """Pictures side by side, and lines of text below them, the first of which stands out."""

    pictures: Sequence[Image.Image | None]
    lines: Sequence[str]


def pictures_of(bundle: Bundle, dataset: Dataset | None, journal: Journal) -> Show:
    """Find a bundle's own thumbnails; where it has none, the dataset's images of the same source."""
    places = {} if dataset is None else {dataset.source(i): i for i in range(len(dataset.labels))}

    def show(entry_id: int, source: str) -> Image.Image | None:
        if (number := number_of(entry_id)) is not None:
            return _taught(bundle, journal, number)
        entry = bundle.entries.get(entry_id)
        kept = bundle.entries.thumbnail(entry) if entry else None
        if kept is not None:
            return Image.open(io.BytesIO(kept), formats=("PNG",)).convert("RGB")
        if dataset is None or source not in places:
            return None
        try:
            return Image.fromarray(dataset.read(places[source], bundle.geometry))
        except ImageError:
            return None

    return show


def _taught(bundle: Bundle, journal: Journal, number: int) -> Image.Image | None:
    content = journal.content(number)
    try:
        return None if content is None else Image.fromarray(decode(content, bundle.geometry, ACCEPTED))
    except ImageError:
        return None


def write_sheets(found: Audit, folder: Path, show: Show) -> list[Path]:
    """Write a sheet each of the suspects and of the near-duplicates across classes; none where there are no pictures.

    Raises:
        OSError: the folder cannot be written.
    """
    suspects = [
        Cell(
            [show(s.id, s.source)],
            (s.given, f"-> {s.suggested}", f"score {s.score:.2f}", f"{place}. id {s.id}"),
        )
        for place, s in enumerate(found.suspects[: found.listed], 1)
    ]
    pairs = [
        Cell(
            [show(*one) for one in zip(pair.ids, pair.sources, strict=True)],
            (" | ".join(pair.labels), f"similarity {pair.similarity:.3f}", f"ids {pair.ids[0]} | {pair.ids[1]}"),
        )
        for pair in found.across
    ]
    titles = (
        f"Given label -> suggested: the first {len(suspects)} of {len(found.suspects):,} images that neighbours doubt",
        f"Near-duplicates with different labels: {len(pairs)} of {found.across_count:,}",
    )
    written = []
    for name, title, cells in zip(("suspects", "duplicates"), titles, (suspects, pairs), strict=True):
        if any(picture for cell in cells for picture in cell.pictures):
            written.append(folder / f"{name}.png")
            folder.mkdir(parents=True, exist_ok=True)
            contact_sheet(title, cells).save(written[-1])
    return written


def contact_sheet(title: str, cells: Sequence[Cell]) -> Image.Image:
    """Draw cells from left to right and from top to bottom, below a title; a missing picture leaves a grey square."""
    pictures = max(len(cell.pictures) for cell in cells)
    lines = max(len(cell.lines) for cell in cells)
    wide, high = pictures * SIDE + GAP, SIDE + lines * LINE + GAP + 4
    columns = max(1, ACROSS // pictures)
    top = GAP + 2 * LINE
    width, rows = columns * wide + GAP, -(-len(cells) // columns)
    sheet = Image.new("RGB", (width, top + rows * high), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(13)
    _write(draw, (GAP, GAP), title, large, INK, width - 2 * GAP)
    for place, cell in enumerate(cells):
        x, y = GAP + place % columns * wide, top + place // columns * high
        for nth, picture in enumerate(cell.pictures):
            box = (x + nth * SIDE, y, x + (nth + 1) * SIDE - 3, y + SIDE - 3)
            if picture is None:
                draw.rectangle(box, EMPTY)
            else:
                sheet.paste(ImageOps.contain(picture, (SIDE - 2, SIDE - 2)), box[:2])
        for nth, text in enumerate(cell.lines):
            _write(draw, (x, y + SIDE + nth * LINE), text, small, MUTED if nth else INK, wide - GAP // 2)
    return sheet


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: str,
    width: int,
) -> None:
    """Text, cut to a width in pixels; Pillow's own font has few signs beyond Latin ones."""
    cut = text
    while len(cut) > 2 and font.getlength(cut) > width:
        text = text[:-1]
        cut = text + ".."
    draw.text(at, cut, fill=colour, font=font)
