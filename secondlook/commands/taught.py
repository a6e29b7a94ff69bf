"""``secondlook taught``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from secondlook.commands.shared.options import (
    json_option,
    max_pixels_option,
    new_bundles_option,
    print_json,
    progress_option,
    reporting,
)
from secondlook.indexer.added_entries import export_added, import_added
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import CURRENT, active_generation
from secondlook.model.images import Limits
from secondlook.model.journal import Journal

folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def taught() -> None:
    """List what was taught to the servers of a bundle root, or take it elsewhere."""


@taught.command("list")
@new_bundles_option
@click.option("--changes", type=click.IntRange(0), default=10, show_default=True, help="Newest changes listed.")
@json_option
def list_(root: Path, changes: int, as_json: bool) -> None:
    """List images by label, decisions about datasets' images, and who did what last."""
    journal = Journal(root)
    state = journal.since(0)
    labels = Counter(image.label for image in state.images if image.label is not None)
    trail = journal.changes(limit=changes)
    if as_json:
        print_json(
            change=state.change,
            images=labels,
            corrections=[correction._asdict() for correction in state.corrections],
            changes=[change._asdict() for change in trail],
        )
        return
    for label, count in labels.most_common():
        click.echo(f"{count:6,} {label}")
    removed = sum(correction.label is None for correction in state.corrections)
    click.echo(
        f"{sum(labels.values()):,} images taught; of datasets' images {len(state.corrections) - removed:,} relabelled "
        f"and {removed:,} removed; {state.change:,} changes"
    )
    for change in trail:
        was = f" (was {change.was})" if change.was else ""
        click.echo(f"{change.at} {change.key}: {change.action} {change.source} {change.label or ''}{was}".rstrip())


@taught.command("export")
@folder_argument
@new_bundles_option
@progress_option
def export(folder: Path, root: Path, progress_format: str) -> None:
    """Write it all into FOLDER: taught.jsonl, and the images as they were sent."""
    with reporting(progress_format) as progress:
        moved = export_added(Journal(root), folder, progress)
    click.echo(f"{moved.images:,} images and {moved.decisions:,} decisions written to {folder}", err=True)


@taught.command("import")
@folder_argument
@new_bundles_option
@click.option("--as", "key", default="import", show_default=True, help="Whose doing the trail says it is.")
@max_pixels_option
@progress_option
def import_(folder: Path, root: Path, key: str, limits: Limits, progress_format: str) -> None:
    """Teach what export wrote. Servers that run on the root know of it within seconds."""
    with reporting(progress_format) as progress:
        known = read_manifest(root, active_generation(root)).classes if (root / CURRENT).exists() else ()
        moved = import_added(Journal(root), folder, key, limits, known, progress)
    click.echo(
        f"{moved.images:,} images and {moved.decisions:,} decisions taken in; {moved.known:,} images were known",
        err=True,
    )
