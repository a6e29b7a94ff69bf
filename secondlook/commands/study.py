"""``secondlook study``."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    json_option,
    print_json,
    progress_option,
    reporting,
)
from secondlook.indexer import results as studies
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle, FromNetwork
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.root import active_generation

NAMES = ("gain", "promises")


@click.command("study")
@click.argument("name", type=click.Choice(NAMES))
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="gain: a folder of the paper's author's .h5 files, or one of them; may be repeated.",
)
@bundles_option
@data_root_option
@click.option("--mirror", is_flag=True, help="gain: cache each image's mirrored copy too.")
@click.option("--new", default="cifar100", show_default=True, help="promises: a dataset of which classes are taught.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON.")
@json_option
@progress_option
def study_command(
    name: str,
    weights: tuple[Path, ...],
    root: Path | None,
    data_root: Path | None,
    mirror: bool,
    new: str,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Ask what is promised of a bundle and its cache.

    gain: how much of what a cache can gain is kept by parameters as they are fitted, with a holdout and without, for
    the bundle's network (--bundles; the default one's without --weights) and others (--weights). promises: whether sets
    and credibility hold what they promise, plain, after teaching, after folding it in, and after removing entries.
    """
    found: studies.Study
    with reporting(progress_format) as progress:
        with_bundle, root = root is not None or not weights, root or default_root()
        if name == "gain":
            import tempfile

            from secondlook.evaluation.paper.subjects import from_weights
            from secondlook.evaluation.studies.gain import Gains, gain
            from secondlook.model.bundles.files import read_manifest

            rows = []
            if with_bundle:
                dataset = read_manifest(root, active_generation(root)).dataset.name
                train, test = (load(dataset, split, data_root) for split in ("train", "test"))
                rows.append(gain("the bundle's", FromBundle(root), train, test, mirror=mirror, progress=progress))
            with tempfile.TemporaryDirectory() as folder:
                for subject in from_weights(weights, Path(folder), data_root) if weights else ():
                    train, test = (load(subject.dataset, split, data_root) for split in ("train", "test"))
                    source = FromNetwork(subject.network, "compact")
                    rows.append(gain(subject.name, source, train, test, mirror=mirror, progress=progress))
            found = Gains(tuple(rows))
        else:
            from secondlook.evaluation.studies.promises import promises

            found = promises(root, data_root, new, progress)
    if out is not None:
        studies.write(found, out, name)
    if as_json or progress_format == "json":
        print_json(**found.as_dict())
        return
    studies.show(found)
