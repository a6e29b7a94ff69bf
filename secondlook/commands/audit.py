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
    print_json,
    progress_option,
    reporting,
)
from secondlook.curation.audit import LISTED, SIMILAR
from secondlook.curation.audit import audit as run
from secondlook.curation.contact_sheets import pictures_of, write_sheets
from secondlook.evaluation.studies.planted import MOST, SEEDS, planted
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.results import show, write
from secondlook.model.bundles.bundle import Bundle, open_bundle
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
@click.option(
    "--plant", type=click.FloatRange(0, MOST, min_open=True), help="Instead, plant this share of wrong labels."
)
@click.option("--seeds", type=click.IntRange(1), default=SEEDS, show_default=True, help="With --plant: how often.")
@click.option(
    "--holdout",
    is_flag=True,
    help="With --plant: rank only the images of the dataset's holdout, on which the network was not trained.",
)
@click.option("--dataset", help="Where the images come from, for pictures and --holdout.  [default: as indexed]")
@data_root_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for JSON, CSV and contact sheets or plot."
)
@max_pixels_option
@json_option
@progress_option
def audit(
    root: Path | None,
    generation: str | None,
    theta: float | None,
    k: int | None,
    similar: float,
    limit: int,
    plant: float | None,
    seeds: int,
    holdout: bool,
    dataset: str | None,
    data_root: Path | None,
    out: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """What a cache knows about its own images: wrong labels, near-duplicates, entries never used."""
    if holdout and plant is None:
        raise click.UsageError("--holdout goes with --plant")
    as_json = as_json or progress_format == "json"
    with reporting(progress_format) as progress:
        bundle = open_bundle(root or default_root(), generation)
        if plant is not None:
            among = None
            if holdout:
                images = _indexed(bundle, dataset, data_root, limits)
                among = {images.source(int(i)) for i in images.holdout()}
            proof = planted(bundle, plant, seeds=seeds, theta=theta, k=k, among=among, progress=progress)
            if out is not None:
                write(proof, out, "planted")
            print_json(**proof.as_dict()) if as_json else show(proof)
            return
        found = run(bundle, theta=theta, k=k, similar=similar, listed=limit, progress=progress)
        if out is not None:
            write(found, out, "audit")
            found.write_csv(out / "suspects.csv")
            shown, why = None, ""
            try:
                shown = _indexed(bundle, dataset, data_root, limits)
            except DatasetError as error:
                if dataset is not None:
                    raise
                why = str(error)
            sheets = write_sheets(found, out, pictures_of(bundle, shown))
            if why and not sheets and (found.suspects or found.across):
                click.echo(f"no contact sheets: the bundle has no thumbnails; {why}", err=True)
    print_json(**found.as_dict()) if as_json else show(found)


def _indexed(bundle: Bundle, name: str | None, data_root: Path | None, limits: Limits) -> Dataset:
    """The dataset that a bundle was made of, or one given.

    Raises:
        DatasetError: it is not there.
    """
    return load(name or bundle.manifest.dataset.name, bundle.manifest.dataset.split, data_root, limits)
