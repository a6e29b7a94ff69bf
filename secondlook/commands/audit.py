"""``secondlook audit``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from secondlook.commands.shared.answering import open_answering
from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
)
from secondlook.commands.shared.trials import tell
from secondlook.commands.studies.of_bundles import planted
from secondlook.curation.audit import LISTED, SIMILAR
from secondlook.curation.audit import audit as run
from secondlook.curation.contact_sheets import pictures_of, write_sheets
from secondlook.curation.fixes import Applied, apply_fixes
from secondlook.evaluation.studies.planted import MOST, SEEDS
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.results import write
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits


@click.command()
@bundles_option
@generation_option
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--k", type=click.IntRange(1), help="Another number of neighbours.")
@click.option(
    "--similar", type=float, default=SIMILAR, show_default=True, help="Cosine of keys that makes near-duplicates."
)
@click.option("--limit", type=click.IntRange(1), default=LISTED, show_default=True, help="Most of each list shown.")
@click.option("--dataset", help="Where the images come from, for pictures.  [default: as indexed]")
@data_root_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for JSON, CSV and contact sheets."
)
@click.option(
    "--fix",
    "fixes",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Take in what a person decided in a .csv or .json file of --out, and look for nothing.",
)
@click.option("--as", "key", default="audit", show_default=True, help="Whose decisions the trail says they are.")
@max_pixels_option
@json_option
@progress_option
@click.option("--for-server", type=click.Path(path_type=Path, dir_okay=False), hidden=True)
@click.option("--plant", "share", type=click.FloatRange(0, MOST, min_open=True), hidden=True)
@click.option("--seeds", type=click.IntRange(1), default=SEEDS, hidden=True)
@click.option("--holdout", is_flag=True, hidden=True)
def audit(
    root: Path | None,
    generation: str | None,
    theta: float | None,
    k: int | None,
    similar: float,
    limit: int,
    dataset: str | None,
    data_root: Path | None,
    out: Path | None,
    fixes: Path | None,
    key: str,
    limits: Limits,
    as_json: bool,
    progress_format: str,
    for_server: Path | None,
    share: float | None,
    seeds: int,
    holdout: bool,
) -> None:
    """Find what a cache knows about its own images: wrong labels, near-duplicates, entries never used."""
    if holdout and share is None:
        raise click.UsageError("--holdout goes with --plant")
    if share is not None:
        click.echo("--plant is a command of its own now: `secondlook study planted`", err=True)
        context = click.get_current_context()
        context.invoke(planted, **{name: context.params[name] for option in planted.params if (name := option.name)})
        return
    as_json = as_json or progress_format == "json"
    if fixes is not None:
        if root is None:
            raise click.UsageError("--fix goes with --bundles: the default bundle cannot be changed")
        with reporting(progress_format):
            _tell_applied(apply_fixes(root, fixes, key, generation), as_json)
        return
    with reporting(progress_format) as progress:
        cache, journal = open_answering(root, generation)
        bundle = cache.bundle
        confirmed = journal.confirmations.of(bundle.manifest.dataset.name)
        found = run(cache, confirmed=confirmed, theta=theta, k=k, similar=similar, listed=limit, progress=progress)
        if for_server is not None:
            for_server.write_text(json.dumps(found.as_dict()))
            print_json(generation=found.generation, images=found.images, suspects=len(found.suspects))
            return
        if out is not None:
            write(found, out, "audit")
            found.write_csv(out / "suspects.csv")
            shown, why = None, ""
            try:
                cached = bundle.manifest.dataset
                shown = load(dataset or cached.name, cached.split, data_root, limits)
            except DatasetError as error:
                if dataset is not None:
                    raise
                why = str(error)
            sheets = write_sheets(found, out, pictures_of(bundle, shown, journal))
            if why and not sheets and (found.suspects or found.across):
                click.echo(f"no contact sheets: the bundle has no thumbnails; {why}", err=True)
    tell(found, as_json)


def _tell_applied(applied: Applied, as_json: bool) -> None:
    if as_json:
        print_json(**applied.as_dict())
        return
    for sentence in applied.changed_since:
        click.echo(f"left as it is: {sentence}", err=True)
    click.echo(
        f"{applied.confirmed:,} right as they are, {applied.relabelled:,} relabelled, {applied.removed:,} removed; "
        f"{applied.already:,} were so already, {applied.undecided:,} are not decided"
        + (f", {len(applied.changed_since):,} were changed since and left as they are" if applied.changed_since else "")
    )
