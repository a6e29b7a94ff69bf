"""``secondlook audit``."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    max_pixels_option,
    progress_option,
    reporting,
)
from secondlook.commands.shared.trials import tell
from secondlook.commands.studies.of_bundles import planted
from secondlook.curation.audit import LISTED, SIMILAR
from secondlook.curation.audit import audit as run
from secondlook.curation.contact_sheets import pictures_of, write_sheets
from secondlook.evaluation.studies.planted import MOST, SEEDS
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.results import write
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
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
@max_pixels_option
@json_option
@progress_option
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
    limits: Limits,
    as_json: bool,
    progress_format: str,
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
    with reporting(progress_format) as progress:
        bundle = open_bundle(root or default_root(), generation)
        found = run(bundle, theta=theta, k=k, similar=similar, listed=limit, progress=progress)
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
            sheets = write_sheets(found, out, pictures_of(bundle, shown))
            if why and not sheets and (found.suspects or found.across):
                click.echo(f"no contact sheets: the bundle has no thumbnails; {why}", err=True)
    tell(found, as_json)
