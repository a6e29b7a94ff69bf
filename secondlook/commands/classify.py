"""``secondlook classify``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from model import bundle as bundles
from model.errors import ImageError
from model.images import decode
from model.predictor import Answer, Predictor
from model.root import default_root
from secondlook.options import KType, bundles_option, generation_option, json_option, print_json


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@bundles_option
@generation_option
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--lam", type=float, help="Another lam.")
@click.option("--k", type=KType(), help="Another k.")
@json_option
def classify(
    images: tuple[Path, ...],
    root: Path | None,
    generation: str | None,
    theta: float | None,
    lam: float | None,
    k: int | None,
    as_json: bool,
) -> None:
    """Classify IMAGES here, without a server: what mixture, network and cache say of each."""
    bundle = bundles.open_bundle(root or default_root(), generation)
    predictor = Predictor(bundle)
    parameters = predictor.parameters(theta, lam, "all" if k == 0 else k)
    failed = 0
    for path in images:
        answer: Answer | ImageError
        try:
            pixels = decode(path.read_bytes(), bundle.engine.size)
            (answer,) = predictor.predict(pixels[None], [parameters])
        except ImageError as error:
            answer = error
        except OSError as error:
            answer = ImageError(error.strerror or "cannot be read")
        if isinstance(answer, ImageError):
            failed += 1
            if as_json:
                print_json(file=str(path), error=str(answer))
            else:
                click.echo(f"{path}: {answer}", err=True)
        else:
            _print(path, answer, bundle.manifest.classes, as_json)
    if failed:
        raise click.exceptions.Exit(1)


def _print(path: Path, answer: Answer, classes: tuple[str, ...], as_json: bool) -> None:
    said = {}
    for name, probabilities in (("mixed", answer.mixed), ("network", answer.network), ("cache", answer.cache)):
        best = int(np.argmax(probabilities))
        said[name] = {"label": classes[best], "probability": round(float(probabilities[best]), 4)}
    if as_json:
        print_json(file=str(path), **said, novelty=round(answer.novelty, 4), is_novel=answer.is_novel)
        return
    parts = [f"{name} {what['label']} {what['probability']:.2f}" for name, what in said.items() if name != "mixed"]
    novel = ", unlike anything cached" if answer.is_novel else ""
    click.echo(f"{path}: {said['mixed']['label']} {said['mixed']['probability']:.2f} ({', '.join(parts)}{novel})")
