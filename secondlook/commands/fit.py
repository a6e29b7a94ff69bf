"""``secondlook fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.fit_options import holdout_of, holdout_option, trained_option, unknown_option
from secondlook.commands.shared.fit_summary import describe_novelty, describe_parameters
from secondlook.commands.shared.network_options import (
    class_map_option,
    network_help,
    network_source,
    own_network,
    preprocess_option,
    written_recipe,
)
from secondlook.commands.shared.options import (
    KType,
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
from secondlook.indexer.datasets.datasets import Dataset, load, load_to_cache
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.fitting.parameters import KS
from secondlook.indexer.fitting.unknown import load_unknown
from secondlook.indexer.index import IndexOptions
from secondlook.indexer.refit import recalibrate, refit
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import activate
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits
from secondlook.model.journal import Journal
from secondlook.model.manifest import FitReport, Manifest, Trained


@click.command()
@click.argument("dataset", required=False)
@bundles_option
@data_root_option
@generation_option
@holdout_option
@trained_option
@click.option("--k", "ks", type=KType(), multiple=True, help="A k to try; may be repeated.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Keep theta, lam, k and the store, and only measure anew what tells novel images, sets and credibility.",
)
@unknown_option
@click.option(
    "--recipes",
    help="Compare these key recipes instead, names or JSON files with commas between; writes no bundle.",
)
@click.option("--network", metavar="NETWORK", help=f"With --recipes: {network_help}.  [default: the bundle's]")
@preprocess_option
@class_map_option
@click.option("--mirror", is_flag=True, help="With --recipes: cache each image's mirrored copy too.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="With --recipes: draw the comparison (PNG)."
)
@click.option("--no-activate", is_flag=True, help="Leave the active bundle as it is.")
@max_pixels_option
@json_option
@progress_option
def fit(
    dataset: str | None,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    holdout: str | None,
    trained: Trained,
    ks: tuple[int, ...],
    calibrate: bool,
    unknown: tuple[str, ...],
    recipes: str | None,
    network: str | None,
    preprocess: Path | None,
    class_map: Path | None,
    mirror: bool,
    plot: Path | None,
    no_activate: bool,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Fit theta, lam and k of a bundle anew: on --holdout, or on a tenth of DATASET, the images that it caches.

    DATASET is the bundle's own where none is given. Without an honest holdout, images that the network was not trained
    on, theta and k are fitted by leave-one-out of the cache. Writes a new bundle with the same keys, and everything
    that was tried; its id is printed last. With --calibrate, only the calibration is measured anew. With --recipes,
    compares key recipes on the holdout and says which to index with.
    """
    if recipes is None and (network or mirror or plot):
        raise click.UsageError("--network, --mirror and --plot go with --recipes")
    if network is None and (preprocess or class_map):
        raise click.UsageError("--preprocess and --class-map go with --network")
    if calibrate and ks:
        raise click.UsageError("--k goes without --calibrate")
    if recipes is not None:
        if ks or no_activate or calibrate or holdout or unknown:
            raise click.UsageError("--k, --calibrate, --holdout, --unknown and --no-activate go without --recipes")
        if dataset is None:
            raise click.UsageError("--recipes needs DATASET, the images to compare them on")
        names = recipes.split(",")
        given = {"preprocess": preprocess, "class_map": class_map}
        _compare(dataset, root, data_root, generation, names, network, plot, mirror, as_json, progress_format, **given)
        return
    if root is None:
        raise click.UsageError("give --bundles, the bundle root to write to (or set SECONDLOOK_BUNDLES)")
    tried = tuple(k or None for k in ks) or KS
    with reporting(progress_format) as progress:
        generation = generation or active_generation(root)
        images = _cached(root, generation, dataset, data_root, limits, optional=holdout is not None)
        cached = read_manifest(root, generation)
        is_alone = cached.is_taught_alone and dataset is None and holdout is None  # there is no split val of it
        options = IndexOptions(
            holdout=None if is_alone else holdout_of(dataset or cached.dataset.name, holdout, data_root, limits),
            unknown=[load_unknown(one, "train", data_root) for one in unknown],
            trained=trained,
        )
        if calibrate:
            new = recalibrate(images, root, generation, options, progress)
        else:
            new = refit(images, root, generation, tried, options, progress)
        if not no_activate:
            activate(root, new)
    manifest = read_manifest(root, new)
    if calibrate:
        _print_calibration(manifest, as_json or progress_format == "json")
        return
    assert manifest.fit is not None
    if as_json or progress_format == "json":
        print_json(generation=new, **manifest.fit.model_dump())
        return
    _print_table(manifest, manifest.fit)
    for line in (*describe_parameters(manifest), *describe_novelty(manifest)):
        click.echo(line, err=True)
    click.echo(new)


def _cached(
    root: Path, generation: str, dataset: str | None, data_root: Path | None, limits: Limits, *, optional: bool
) -> Dataset | None:
    """The images that a bundle caches; None where they are optional and are not there, or all were taught.

    Raises:
        DatasetError: they are needed, and not there.
    """
    manifest = read_manifest(root, generation)
    if manifest.is_taught_alone and dataset is None:
        return None
    cached = manifest.dataset
    try:
        images = load_to_cache(dataset or cached.name, cached.split, data_root, limits, skip_empty=True)
    except DatasetError:
        if optional and dataset is None:
            return None
        raise
    if images.content_hash() != cached.sha256:  # it may be what was taught that differs
        images = fold(images, Journal(root))
    if optional and dataset is None and images.content_hash() != cached.sha256:
        return None
    return images


def _print_table(manifest: Manifest, report: FitReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"error % on {report.images:,} images of the cache, by its others alone"
        if manifest.parameters_from == "leave-one-out"
        else f"holdout error % (best lam), {report.images:,} images, "
        + (
            "no network"
            if report.network_error_percent is None
            else f"network alone {report.network_error_percent:.2f}"
        )
    )
    table.add_column("theta", justify="right")
    for k in report.ks:
        table.add_column(f"k={k or 'all'}", justify="right")
    for j, theta in enumerate(report.thetas):
        cells = []
        for i, k in enumerate(report.ks):
            error, lam = min(zip(report.error_percent[i][j], report.lams, strict=True))
            text = f"{error:.2f} ({lam:.2f})"
            cells.append(f"[bold green]{text}[/]" if (theta, k) == (manifest.theta, manifest.k) else text)
        table.add_row(f"{theta:g}", *cells)
    Console().print(table)


def _print_calibration(manifest: Manifest, as_json: bool) -> None:
    calibration = manifest.calibration
    assert calibration is not None
    if as_json:
        same_as = manifest.same_as.model_dump() if manifest.same_as else None
        print_json(generation=manifest.generation, calibration=calibration.model_dump(), same_as=same_as)
        return
    from rich.console import Console
    from rich.table import Table

    novelty = calibration.novelty
    kinds = list(novelty.candidates[0].auroc)
    table = Table(title="how often an image of each kind is told from one of the holdout, %")
    for column in ("novelty by", *kinds, "points lost at most"):
        table.add_column(column, justify="left" if column == "novelty by" else "right")
    for one in novelty.candidates:
        figures = [f"{one.auroc[kind]:.2f}" for kind in kinds]
        table.add_row(
            one.score, *figures, f"{one.lost:.2f}", style="bold green" if one.score == novelty.score else None
        )
    Console().print(table)
    network = calibration.ece_percent_network
    click.echo(
        f"novelty by {novelty.score}: {100 * novelty.false_alarm_rate:.2f} % of the holdout's images are novel; "
        f"ECE of {'' if network is None else f'network {network:.2f} %, '}mixture {calibration.ece_percent_mixed:.2f} %"
    )
    for line in describe_novelty(manifest):
        click.echo(line, err=True)
    click.echo(manifest.generation)


def _compare(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    names: list[str],
    network: str | None,
    plot: Path | None,
    mirror: bool,
    as_json: bool,
    progress_format: str,
    **given: Any,
) -> None:
    from secondlook.evaluation.studies.recipes import compare

    if len({Path(name).stem for name in names}) < len(names):
        raise click.UsageError("--recipes: two of them have the same name")
    with reporting(progress_format) as progress:
        if network is None:
            root = root or default_root()
            network = own_network(root, generation or active_generation(root))
        images = load(dataset, "train", data_root)
        source = network_source(network, None, **given, test=lambda: load(dataset, "test", data_root), mirror=mirror)
        opened = source.open(images, progress)
        asked = {Path(name).stem: written_recipe(name, opened.network) for name in names}
        found = compare(images, opened, asked, mirror=mirror, progress=progress)
    tell(found, as_json or progress_format == "json")
    if plot is not None:
        (comparison,) = found.figures()
        comparison.write(plot)
