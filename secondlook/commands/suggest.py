"""``secondlook suggest``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from secondlook.commands.embed_files import whole
from secondlook.commands.shared.bundle_encoder import Encoder, of_bundle
from secondlook.commands.shared.options import (
    bundles_option,
    generation_option,
    json_option,
    left_out_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.curation.audit import SIMILAR
from secondlook.curation.suggest import COUNT, Suggestions
from secondlook.curation.suggest import suggest as choose
from secondlook.indexer.datasets.folders import FolderDataset, load_photos
from secondlook.indexer.datasets.left_out import check_ending
from secondlook.indexer.embedding.embedding import embedded_batches
from secondlook.indexer.progress import Progress
from secondlook.model.cache import Floats
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits

COLUMNS = ("order", "file", "why", "reason", "like", "label", "or", "margin", "similarity")


def _check_out(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        check_ending(path)
    return path


@click.command()
@click.argument("pool", type=click.Path(path_type=Path, exists=True))
@bundles_option
@generation_option
@click.option("--count", type=click.IntRange(1), default=COUNT, show_default=True, help="How many at most.")
@click.option(
    "--similar", type=float, default=SIMILAR, show_default=True, help="Cosine of keys that makes near-duplicates."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_check_out,
    help="Write them to a file: .csv or .json.",
)
@left_out_option
@max_pixels_option
@json_option
@progress_option
def suggest(
    pool: Path,
    root: Path | None,
    generation: str | None,
    count: int,
    similar: float,
    out: Path | None,
    left_out_file: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Say which photos of POOL to label next, and why: those that a bundle would learn most from, in order.

    POOL is a folder of any layout; what its folders are called is not looked at. As long as little is known, photos
    come first that are typical of many like which none is known, then those that are hardest to tell. Photos that are
    nearly one that the bundle knows, or nearly one that is suggested, are left out, and counted.
    """
    as_json = as_json or progress_format == "json"
    with reporting(progress_format) as progress, of_bundle(root, generation, searches=True) as encoder:
        images = load_photos(pool, limits)
        files, keys, logits = _embedded(images, encoder, progress)
        assert encoder.predictor is not None
        found = choose(encoder.predictor, keys, logits, count=count, similar=similar, progress=progress)
    left_out = tell_left_out([images], left_out_file)
    told = [
        {"file": files[one["place"]], **{name: one[name] for name in one if name != "place"}}
        for one in found.as_dict()["suggested"]
    ]
    document = {
        "generation": encoder.said["generation"],
        "photos": found.images,
        "known": found.known,
        "alike": found.alike,
        "suggested": told,
        "left_out": left_out.counts(),
    }
    if out is not None:
        with whole(out) as file:
            file.write(_csv(told) if out.suffix.lower() == ".csv" else json.dumps(document, indent=1).encode() + b"\n")
    if encoder.kept.is_kept:
        click.echo(encoder.kept.counts.said(), err=True)
    if as_json:
        print_json(**document)
        return
    for order, one in enumerate(told, 1):
        click.echo(f"{order}. {one['file']}: {one['why']}")
    click.echo(_said(found), err=True)


def _embedded(images: FolderDataset, encoder: Encoder, progress: Progress) -> tuple[list[str], Floats, Floats]:
    """Names of photos that have a key, their keys (n,D) and logits (n,C)."""
    count, engine = len(images.files), encoder.engine
    keys, logits = (np.empty((count, width), np.float32) for width in (engine.dim, engine.classes))
    files: list[str] = []
    progress("embed", 0, count)
    for batch in embedded_batches(images, np.arange(count), encoder, encoder.kept):
        rows = slice(len(files), len(files) + len(batch.positions))
        encoding = batch.copies[0].encoding
        keys[rows], logits[rows] = encoding.keys, encoding.logits
        files += [images.source(position) for position in batch.positions.tolist()]
        progress("embed", int(batch.positions[-1]) + 1, count)
    if not files:
        raise DatasetError(f"{images.root} has no photo that can be read: {images.left_out.said()}")
    progress("embed", count, count)
    return files, keys[: len(files)], logits[: len(files)]


def _csv(told: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for order, one in enumerate(told, 1):
        first, second = (*one["labels"], "", "")[:2]
        named = {**one, "order": order, "label": first, "or": second}
        rows.writerow(["" if named[name] is None else named[name] for name in COLUMNS])
    return text.getvalue().encode()


def _said(found: Suggestions) -> str:
    """What the suggestions are of."""
    parts = [f"{len(found.suggested):,} of {found.images:,} photos"]
    if found.known:
        parts.append(f"{found.known:,} are nearly one that is known")
    if found.alike:
        parts.append(f"{found.alike:,} nearly one of these")
    return "; ".join(parts)
