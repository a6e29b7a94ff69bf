"""``secondlook attack``."""

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
    setting_options,
)
from secondlook.model.images import Limits


@click.command()
@click.argument("dataset")
@bundles_option
@data_root_option
@generation_option
@click.option("--split", default="test", show_default=True, help="train or test.")
@click.option("--images", type=click.IntRange(1), default=500, show_default=True, help="How many, drawn by a seed.")
@click.option(
    "--attacks",
    default="fgsm,iterative_fgsm,single_pixel,gaussian_blur",
    show_default=True,
    help="On the network, with commas between; an empty one leaves them out.",
)
@click.option("--preset", default="orhan2018", show_default=True, help="Their grids: orhan2018, or quick.")
@click.option("--by-size", is_flag=True, help="Attack the network with changes of fixed sizes too (FGSM and PGD).")
@click.option("--white-box", is_flag=True, help="Attack each model through its own gradient too (PGD and APGD).")
@click.option(
    "--epsilons",
    default="0.25,0.5,1,2,4",
    show_default=True,
    help="Sizes for the two above: largest change of a pixel, of 255.",
)
@setting_options
@click.option(
    "--keys",
    type=click.Choice(["float32", "float16", "stored"]),
    default="float32",
    show_default=True,
    help="How keys are held; stored: read from the store for each batch, slower and without more memory.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for attack.json and the plots.")
@max_pixels_option
@json_option
@progress_option
def attack(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    split: str,
    images: int,
    attacks: str,
    preset: str,
    by_size: bool,
    white_box: bool,
    epsilons: str,
    exact: bool,
    theta: float | None,
    lam: float | None,
    cache_theta: float | None,
    keys: str,
    out: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure what adversarial images do to network, mixture and cache alone: accuracy by attack and size."""
    from secondlook.evaluation.robustness.attack_study import attack_study
    from secondlook.evaluation.robustness.attacks import ATTACKS, PRESETS
    from secondlook.evaluation.robustness.models import Models
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.embedding.encoders import best_device
    from secondlook.indexer.results import show, write
    from secondlook.model.bundles.bundle import open_bundle
    from secondlook.model.bundles.default import default_root

    chosen = [name.strip() for name in attacks.split(",") if name.strip()]
    for name in chosen:
        if name not in ATTACKS:
            raise click.UsageError(f"there is no attack {name!r}: choose among {', '.join(ATTACKS)}")
    if preset not in PRESETS:
        raise click.UsageError(f"there is no preset {preset!r}: choose {' or '.join(PRESETS)}")
    if not (chosen or by_size or white_box):
        raise click.UsageError("nothing to do: name --attacks, or give --by-size or --white-box")
    sizes = _sizes(epsilons)
    with reporting(progress_format) as progress:
        bundle = open_bundle(root or default_root(), generation)
        models = Models.of(
            bundle,
            k=None if exact else "bundle",
            theta=theta,
            lam=lam,
            cache_theta=cache_theta,
            keeping=keys,  # type: ignore[arg-type]  # click has checked it
            device=best_device(),
        )
        found = attack_study(
            bundle,
            models,
            load(dataset, split, data_root, limits),
            images,
            attacks=[name for name in ATTACKS if name in chosen],
            preset=preset,
            by_size=by_size,
            own_gradient=white_box,
            epsilons=sizes,
            progress=progress,
        )
    if as_json or progress_format == "json":
        print_json(**found.as_dict())
    else:
        show(found)
    if out is not None:
        for path in write(found, out, "attack"):
            click.echo(path, err=True)


def _sizes(text: str) -> list[float]:
    try:
        sizes = sorted({float(part) for part in text.split(",")})
    except ValueError:
        sizes = [0.0]
    if not 0 < sizes[0] <= sizes[-1] <= 255:
        raise click.UsageError(f"--epsilons: {text!r} are not numbers above 0 and up to 255 with commas between")
    return sizes
