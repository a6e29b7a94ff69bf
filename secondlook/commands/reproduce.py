"""``secondlook reproduce``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    progress_option,
    reporting,
)
from secondlook.evaluation.paper.steps import FULL, QUICK, STEPS
from secondlook.evaluation.paper.subjects import AS_IS, RECIPES


@click.command()
@click.option("--preset", type=click.Choice(["orhan2018"]), default="orhan2018", show_default=True, help="Whose.")
@click.option("--quick", is_flag=True, help="Fewer images and a smaller cache: minutes, wider intervals.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="An .h5 or safetensors file, or a folder of the author's .h5 files; may be repeated.",
)
@bundles_option
@generation_option
@click.option("--dataset", help="What --weights that are not the author's know: cifar10, cifar100 or a folder.")
@data_root_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where the report goes.")
@click.option("--only", type=click.Choice(STEPS), multiple=True, help="This step only; may be repeated.")
@click.option("--recipe", "recipes", type=click.Choice((*RECIPES, AS_IS)), multiple=True, help="This recipe only.")
@click.option("--keep-bundles", is_flag=True, help="Leave the caches there (4.9 GB for the paper's) when done.")
@progress_option
def reproduce(
    preset: str,
    quick: bool,
    weights: tuple[Path, ...],
    root: Path | None,
    generation: str | None,
    dataset: str | None,
    data_root: Path | None,
    out: Path,
    only: tuple[str, ...],
    recipes: tuple[str, ...],
    keep_bundles: bool,
    progress_format: str,
) -> None:
    """Measure the paper's figures on the author's weights, on yours, or on a bundle: one report in OUT.

    Errors, adversarial images, Jacobians and natural shift, for the paper's key recipe and the compact one. Without
    --weights, the network of the bundle is measured, and the bundle as it is. What is in OUT already is taken up, so an
    interrupted run goes on. Exit 1 where a published error is missed or something could not be measured.
    """
    from secondlook.evaluation.paper.reproduce import Run
    from secondlook.evaluation.paper.subjects import from_bundle, from_weights
    from secondlook.model.bundles.default import default_root
    from secondlook.model.bundles.root import active_generation

    with reporting(progress_format) as progress:
        if weights:
            subjects = from_weights(weights, out, data_root, dataset)
        else:
            root = root or default_root()
            subjects = [from_bundle(root, generation or active_generation(root), dataset)]
        run = Run(
            out,
            QUICK if quick else FULL,
            data_root,
            shlex.join(["secondlook", *sys.argv[1:]]),
            preset=preset,
            quick=quick,
            steps=only or STEPS,
            recipes=recipes or None,
            keep_bundles=keep_bundles,
            progress=progress,
        )
        report = run.measure(subjects)
    for line in report.failed:
        click.echo(f"not measured: {line}", err=True)
    for line in report.missed:
        click.echo(f"a published error is missed: {line}", err=True)
    click.echo(out / "report.html")
    if report.failed or report.missed:
        click.get_current_context().exit(1)
