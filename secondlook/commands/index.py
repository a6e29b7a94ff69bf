"""``secondlook index``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.core import ParameterSource

from secondlook.commands.shared.fit_options import holdout_of, holdout_option, trained_option, unknown_option
from secondlook.commands.shared.fit_summary import describe_engines, describe_novelty, describe_parameters
from secondlook.commands.shared.network_options import (
    class_map_option,
    network_help,
    network_source,
    own_network,
    preprocess_option,
)
from secondlook.commands.shared.options import (
    KType,
    data_root_option,
    left_out_option,
    max_pixels_option,
    new_bundles_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.indexer.datasets.datasets import Dataset, load, load_to_cache, nothing
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.datasets.left_out import NAMED as FEW
from secondlook.indexer.datasets.left_out import shortened
from secondlook.indexer.datasets.published import CIFAR
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.embedding.kept_features import Counts
from secondlook.indexer.fitting.unknown import load_unknown
from secondlook.indexer.index import IndexOptions
from secondlook.indexer.index import index as build
from secondlook.indexer.sharding.merge import merge, open_parts
from secondlook.indexer.sharding.on_ray import Job, default_shards, embed_on_ray
from secondlook.indexer.sharding.shards import Shards, shard_folder
from secondlook.indexer.sources.from_network import HeadChoice
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import activate
from secondlook.model.bundles.root import CURRENT, active_generation
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits
from secondlook.model.journal import Journal
from secondlook.model.manifest import Manifest, Trained
from secondlook.model.networks.cifar_recipes import NAMED


@click.command()
@click.argument("dataset", required=False)
@new_bundles_option
@data_root_option
@click.option("--split", default="train", show_default=True, help="train, val or test.")
@click.option(
    "--network",
    metavar="NETWORK",
    help=f"{network_help}.  [default: the network of the active bundle, or of the default one]",
)
@preprocess_option
@class_map_option
@click.option(
    "--head",
    type=click.Choice(["auto", "network", "linear", "none"]),
    default="auto",
    show_default=True,
    help="With --network, whose opinion the cache is mixed with: the network's, that of a linear head fitted to these "
    "images (needs scikit-learn), or nobody's. auto: the network's, where it knows the dataset's classes, else the "
    "linear one, where it can be fitted.",
)
@click.option(
    "--recipe",
    help="A JSON file that says which layers become keys, or, for a CIFAR ResNet, "
    f"{', '.join(NAMED)}.  [default: the active bundle's; with --network, what its head reads]",
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
@holdout_option
@trained_option
@unknown_option
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
@click.option(
    "--parts",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for parts of the index, which --shard and --ray fill and --merge makes the bundle of.",
)
@click.option("--shards", type=click.IntRange(1), metavar="N", help="Split the dataset into so many parts.")
@click.option(
    "--shard",
    type=click.IntRange(0),
    metavar="I",
    help="Embed part I of N, counted from 0, and no more. Parts may be embedded side by side, by any scheduler; one "
    "that was killed goes on where it was.",
)
@click.option("--merge", "merging", is_flag=True, help="Make the bundle of the parts, when all are finished.")
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS|local",
    help="Embed on a Ray cluster, all of whose nodes see the same folders, or with Ray on this machine; then merge. "
    "The same command goes on after one that was stopped.  [default of --parts: below --bundles, for a while]",
)
@click.option("--workers", type=click.IntRange(1), help="With --ray: so many at once.  [default: one a GPU, or a node]")
@click.option(
    "--skip-empty", is_flag=True, help="Leave out classes that have no image that can be read, instead of giving up."
)
@left_out_option
@max_pixels_option
@progress_option
@click.pass_context
def index(
    context: click.Context,
    dataset: str | None,
    root: Path,
    data_root: Path | None,
    split: str,
    network: str | None,
    preprocess: Path | None,
    class_map: Path | None,
    head: HeadChoice,
    recipe: str | None,
    store: str,
    mirror: bool,
    fit_flag: bool,
    holdout: str | None,
    trained: Trained,
    unknown: tuple[str, ...],
    theta: float | None,
    lam: float | None,
    k: int | None,
    no_activate: bool,
    no_thumbnails: bool,
    with_taught: bool,
    download: bool,
    parts: Path | None,
    shards: int | None,
    shard: int | None,
    merging: bool,
    address: str | None,
    workers: int | None,
    skip_empty: bool,
    left_out_file: Path | None,
    limits: Limits,
    progress_format: str,
) -> None:
    """Embed DATASET (cifar10, cifar100 or a folder of class folders) into a new bundle.

    Without DATASET, what was taught to the servers of this root is all there is, be it nothing. The new generation's id
    is printed last.

    On many machines: --shard for each part, then --merge; or --ray (docs/indexing-at-scale.md).
    """
    _check_mode(context)
    numbers = [value is not None for value in (theta, lam, k)]
    if any(numbers) and (fit_flag or not all(numbers)):
        raise click.UsageError("give --theta, --lam and --k together, or none of them to have them fitted")
    if any(numbers) and (holdout is not None or unknown):
        raise click.UsageError("--holdout and --unknown go without --theta, --lam and --k: what they are for is fitted")
    parameters = Parameters(theta, lam, k or None) if theta is not None and lam is not None else None
    with reporting(progress_format) as progress:
        if download and dataset:
            fetch(dataset, data_root)
        given = images = (
            load_to_cache(dataset, split, data_root, limits, skip_empty=skip_empty) if dataset else nothing()
        )
        if shard is not None:
            assert parts is not None
            assert shards is not None
            source = FromBundle(_encoder_root(root))
            work = Shards(images, source, parts, shards, mirror=mirror, thumbnails=not no_thumbnails)
            was_left = work.write(shard, progress)
            said = "is finished" if was_left else "was finished already"
            click.echo(f"shard {shard} of {shards} {said}: {shard_folder(parts, shard)}", err=True)
            tell_left_out([given], left_out_file)
            if progress_format == "json":
                print_json(shard=shard, shards=shards)
            return
        options = IndexOptions(
            store=store,
            mirror=mirror,
            parameters=parameters,
            thumbnails=not no_thumbnails,
            holdout=None if parameters else holdout_of(dataset, holdout, data_root, limits) if dataset else None,
            unknown=[load_unknown(one, "train", data_root) for one in unknown],
            trained=trained,
        )
        journal = Journal(root) if with_taught else None
        counts = Counts()
        if address is not None:
            assert dataset is not None
            folder = parts or root / PARTS
            source, count = FromBundle(_encoder_root(root)), shards or default_shards(len(images.labels))
            job = Job(
                *(dataset, split, data_root, source, folder, count),
                mirror=mirror,
                thumbnails=not no_thumbnails,
                limits=limits,
                skip_empty=skip_empty,
            )
            embed_on_ray(address, job, workers, progress)
            opened = open_parts(folder)
            generation = merge(images, opened, root, _encoder_root(root), options, journal, progress, counts)
            if parts is None:
                shutil.rmtree(folder)
        elif merging:
            assert parts is not None
            opened = open_parts(parts)
            generation = merge(images, opened, root, _encoder_root(root), options, journal, progress, counts)
        else:
            if journal is not None:
                images = fold(images, journal)
            test = lambda: load(dataset or "", "test", data_root, limits)  # noqa: E731 - read by few networks
            encoder = _encoder_source(root, network, recipe, preprocess, class_map, head, test, mirror=mirror)
            generation = build(images, root, encoder, options, progress, counts=counts)
        if not no_activate:
            activate(root, generation)
    manifest = read_manifest(root, generation)
    if counts.embedded or counts.known:
        click.echo(counts.said(), err=True)
    for line in _what_was_built(manifest):
        click.echo(line, err=True)
    left_out = tell_left_out([given], left_out_file)
    if progress_format == "json":
        for left in left_out.as_lines():
            print_json(left_out=left)
        of = manifest.dataset
        print_json(
            generation=generation,
            embedded=counts.embedded,
            known=counts.known,
            left_out=left_out.counts(),
            duplicates=of.duplicates,
            in_two_classes=of.in_two_classes,
            in_two_classes_count=of.in_two_classes_count,
        )
    else:
        click.echo(generation)


PARTS = "parts"
"""The folder below the root for parts that nobody asked for."""

_OF_RAY = ("address", "workers")
_OF_THE_BUNDLE = ("store", "fit_flag", "holdout", "trained", "theta", "lam", "k", "no_activate", "with_taught")
_OF_A_DATASET = ("split", "holdout", "download", "skip_empty", "left_out_file", "parts", "shards", "shard", "address")
_OF_THE_NETWORK = ("network", "preprocess", "class_map", "head")
_OF_THE_EMBEDDING = ("mirror", "no_thumbnails", *_OF_THE_NETWORK, "recipe", "shards")


def _check_mode(context: click.Context) -> None:
    """Refuse options that mean nothing together, and an index of what was taught in the place of one of images.

    Raises:
        click.UsageError: names them.
    """
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
    if context.params["dataset"] is None:
        root = context.params["root"]
        active = read_manifest(root, active_generation(root)) if (root / CURRENT).exists() else None
        if active is not None and not active.is_taught_alone:
            raise click.UsageError(
                f"name DATASET: the active bundle caches {active.dataset.name}, and without it only what was taught "
                "would be left"
            )
        _exclude(given, "an index without DATASET", *_OF_A_DATASET)
    if "network" not in given and (of := given.keys() & set(_OF_THE_NETWORK)):
        raise click.UsageError(f"{given[min(of)]} goes with --network")
    if given.keys() & {"shard", "address"} and given.keys() & {"network", "recipe"}:
        raise click.UsageError(
            "shards take the encoder of a bundle: index a small part of the images with --network or --recipe first, "
            "and give that --bundles"
        )
    if "shard" in given:
        if not {"parts", "shards"} <= given.keys():
            raise click.UsageError("--shard needs --shards and --parts")
        _exclude(given, "--shard", *_OF_THE_BUNDLE, *_OF_RAY, "merging")
    elif "merging" in given:
        if "parts" not in given:
            raise click.UsageError("--merge needs --parts")
        _exclude(given, "--merge, which takes the parts as they were embedded", *_OF_THE_EMBEDDING, *_OF_RAY)
    elif "address" not in given:
        _exclude(given, "an index in one piece: give --shard, --merge or --ray too", "parts", "shards", "workers")


def _exclude(given: dict[str, str], mode: str, *names: str) -> None:
    for name in names:
        if name in given:
            raise click.UsageError(f"{given[name]} does not go with {mode}")


def _what_was_built(manifest: Manifest) -> Iterator[str]:
    kept, lost = manifest.store, manifest.approximation_error
    yield f"store {kept.factory}{f', chosen: {kept.why}' if kept.why else ''}"
    yield from describe_parameters(manifest)
    yield from describe_novelty(manifest)
    yield from describe_engines(manifest)
    if lost is not None:
        yield (
            f"against the exact sum, {lost.changed_top1_percent:.2f} % of held-out answers change their first class; "
            f"total variation {lost.mean:.4f} on average, {lost.p99:.4f} at the 99th percentile"
        )
    found = manifest.dataset
    if found.duplicates:
        yield f"copies: {found.duplicates:,} images show a picture that another one shows too; no split parts them"
    if found.in_two_classes:
        pairs = (f"{shortened(one)} and {shortened(other)}" for one, other in found.in_two_classes[:FEW])
        more = "; ..." if found.in_two_classes_count > FEW else ""
        yield f"one picture in two classes, {found.in_two_classes_count:,} times: {'; '.join(pairs)}{more}"


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


def _encoder_source(
    root: Path,
    network: str | None,
    recipe: str | None,
    preprocess: Path | None,
    class_map: Path | None,
    head: HeadChoice,
    test: Callable[[], Dataset],
    *,
    mirror: bool,
) -> EncoderSource:
    """The network's where one is given, else the active bundle's.

    Raises:
        click.UsageError: an option does not go with that.
        RecipeError: there is no such recipe, or the bundle has no network to make keys by another recipe with.
    """
    active = _encoder_root(root)
    if network is None and recipe is None:
        return FromBundle(active)
    if network is None:
        network = own_network(active, active_generation(active))
    return network_source(network, recipe, preprocess, class_map, head, test, mirror=mirror, root=root)


def _encoder_root(root: Path) -> Path:
    """Where the encoder comes from: the root, or, where it has no bundle yet, that of the default bundle."""
    return root if (root / CURRENT).exists() else default_root()
