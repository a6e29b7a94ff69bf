"""``secondlook index``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from pydantic import ValidationError

from indexer.datasets import CIFAR, Dataset, load
from indexer.encoders import EncoderSource, FromBundle, FromNetwork
from indexer.fold import fold
from indexer.index import IndexOptions
from indexer.index import index as build
from model import bundle as bundles
from model.errors import DatasetError, RecipeError
from model.journal import Journal
from model.manifest import Manifest
from model.milvus_generations import activate
from model.predictor import Parameters
from model.recipe import NAMED, Recipe
from model.root import active_generation, default_root
from secondlook.options import KType, data_root_option, new_bundles_option, print_json, progress_option, reporting


@click.command()
@click.argument("dataset")
@new_bundles_option
@data_root_option
@click.option("--split", default="train", show_default=True, help="train or test.")
@click.option(
    "--network",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A safetensors file; without it, the network of the active bundle (or of the default one).",
)
@click.option(
    "--recipe",
    help=f"{', '.join(NAMED)}, or a JSON file; without it, the active bundle's recipe (compact with --network).",
)
@click.option(
    "--store",
    default="auto",
    show_default=True,
    metavar="FACTORY|auto",
    help="A FAISS factory string; or milvus, or milvus:INDEX.",
)
@click.option("--mirror", is_flag=True, help="Cache each image's mirrored copy too.")
@click.option(
    "--fit", "fit_flag", is_flag=True, help="Fit theta, lam and k on the holdout (what happens without them)."
)
@click.option("--theta", type=float, help="Use this theta (with --lam and --k).")
@click.option("--lam", type=float, help="Use this lam.")
@click.option("--k", type=KType(), help="Use this k.")
@click.option("--no-activate", is_flag=True, help="Leave the active bundle as it is.")
@click.option("--no-thumbnails", is_flag=True, help="Keep no small copies of the images.")
@click.option(
    "--taught/--no-taught",
    "with_taught",
    default=True,
    help="Fold in what was taught to the servers of this root: images, labels and removals.  [default: taught]",
)
@click.option(
    "--download", is_flag=True, help="Fetch cifar10 or cifar100 into the data root first (needs torchvision)."
)
@progress_option
def index(
    dataset: str,
    root: Path,
    data_root: Path | None,
    split: str,
    network: Path | None,
    recipe: str | None,
    store: str,
    mirror: bool,
    fit_flag: bool,
    theta: float | None,
    lam: float | None,
    k: int | None,
    no_activate: bool,
    no_thumbnails: bool,
    with_taught: bool,
    download: bool,
    progress_format: str,
) -> None:
    """Embed DATASET (cifar10, cifar100 or a folder of class folders) into a new bundle.

    The new generation's id is printed last.
    """
    given = [value is not None for value in (theta, lam, k)]
    if any(given) and (fit_flag or not all(given)):
        raise click.UsageError("give --theta, --lam and --k together, or none of them to have them fitted")
    parameters = Parameters(theta, lam, k or None) if theta is not None and lam is not None else None
    with reporting(progress_format) as progress:
        if download:
            fetch(dataset, data_root)
        images = load(dataset, split, data_root)
        if with_taught:
            images = fold(images, Journal(root))
        source = _encoder_source(root, network, recipe, lambda: load(dataset, "test", data_root))
        options = IndexOptions(store=store, mirror=mirror, parameters=parameters, thumbnails=not no_thumbnails)
        generation = build(images, root, source, options, progress)
        if not no_activate:
            activate(root, generation)
    manifest = bundles.read_manifest(root, generation)
    skipped = manifest.dataset.unreadable
    for line in _what_was_built(manifest):
        click.echo(line, err=True)
    if skipped:
        click.echo(f"{len(skipped)} unreadable images were skipped: {', '.join(skipped[:20])}", err=True)
    if progress_format == "json":
        print_json(generation=generation)
    else:
        click.echo(generation)


def _what_was_built(manifest: Manifest) -> Iterator[str]:
    kept, lost = manifest.store, manifest.truncation
    yield f"store {kept.factory}{f', chosen: {kept.why}' if kept.why else ''}"
    if manifest.fit is not None:
        yield (
            f"theta {manifest.theta:g}, lam {manifest.lam:g}, k {manifest.k or 'all'}: "
            f"{manifest.fit.chosen_error_percent:.2f} % error on {manifest.fit.images:,} held-out images, "
            f"the network alone {manifest.fit.network_error_percent:.2f} %"
        )
    if lost is not None:
        yield (
            f"against the exact sum, {lost.changed_top1_percent:.2f} % of held-out answers change their first class; "
            f"total variation {lost.mean:.4f} on average, {lost.p99:.4f} at the 99th percentile"
        )


def fetch(dataset: str, data_root: Path | None) -> None:
    """Download a CIFAR set with torchvision.

    Raises:
        DatasetError: another dataset, no folder to put it in, or the download fails.
    """
    if dataset not in CIFAR or data_root is None:
        raise DatasetError("--download fetches cifar10 or cifar100 into --data-root: give both")
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_and_extract_archive

    # Not CIFAR10(download=True), which would go on to unpickle what it fetched.
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[dataset]
    if (data_root / kind.base_folder).is_dir():
        return
    try:
        download_and_extract_archive(kind.url, str(data_root), filename=kind.filename, md5=kind.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{dataset} could not be downloaded: {error}") from error


def _encoder_source(root: Path, network: Path | None, recipe: str | None, test: Callable[[], Dataset]) -> EncoderSource:
    active = root if (root / "CURRENT").exists() else default_root()
    if network is None and recipe is None:
        return FromBundle(active)
    if network is None:
        network = active / active_generation(active) / bundles.NETWORK
    return FromNetwork(network, read_recipe(recipe or "compact"), test)


def read_recipe(text: str) -> str | Recipe:
    """A recipe's name as it is, or a recipe written out in a JSON file.

    Raises:
        RecipeError: neither.
    """
    if text in NAMED:
        return text
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"there is no recipe {text!r}: choose {', '.join(NAMED)} or give a JSON file")
    try:
        return Recipe.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{path} is not a recipe: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, OSError) as error:
        raise RecipeError(f"{path} is not a JSON file") from error
