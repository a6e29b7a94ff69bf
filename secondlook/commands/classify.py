"""``secondlook classify``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from model import bundle as bundles
from model.doubt import check_coverage
from model.errors import ImageError
from model.images import decode
from model.predictor import Answer, Parameters, Predictor
from model.root import default_root
from secondlook.options import KType, bundles_option, generation_option, json_option, print_json


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@bundles_option
@generation_option
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--lam", type=float, help="Another lam.")
@click.option("--k", type=KType(), help="Another k.")
@click.option("--coverage", type=float, help="Give the labels that hold the right one so often, such as 0.95.")
@json_option
def classify(
    images: tuple[Path, ...],
    root: Path | None,
    generation: str | None,
    theta: float | None,
    lam: float | None,
    k: int | None,
    coverage: float | None,
    as_json: bool,
) -> None:
    """Classify IMAGES here, without a server: what mixture, network and cache say of each, and how far to trust it."""
    if coverage is not None:
        check_coverage(coverage)
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
            _print(path, answer, _doubt(predictor, answer, parameters, coverage), bundle.manifest.classes, as_json)
    if failed:
        raise click.exceptions.Exit(1)


class _Doubt(NamedTuple):
    credibility: float | None
    """None where the bundle is not calibrated for these parameters."""
    coverage: float | None
    labels: list[str] | None
    """Those that hold the right one so often."""


def _doubt(predictor: Predictor, answer: Answer, parameters: Parameters, coverage: float | None) -> _Doubt:
    labels = predictor.prediction_set(answer, parameters, coverage) if coverage is not None else None
    return _Doubt(predictor.credibility(answer, parameters), coverage, labels)


def _print(path: Path, answer: Answer, doubt: _Doubt, classes: tuple[str, ...], as_json: bool) -> None:
    said = {}
    for name, probabilities in (("mixed", answer.mixed), ("network", answer.network), ("cache", answer.cache)):
        best = int(np.argmax(probabilities))
        said[name] = {"label": classes[best], "probability": round(float(probabilities[best]), 4)}
    if as_json:
        asked = {} if doubt.coverage is None else {"prediction_set": doubt.labels}
        sure = None if doubt.credibility is None else round(doubt.credibility, 4)
        novelty = round(answer.novelty, 4)
        print_json(file=str(path), **said, novelty=novelty, is_novel=answer.is_novel, credibility=sure, **asked)
        return
    parts = [f"{name} {what['label']} {what['probability']:.2f}" for name, what in said.items() if name != "mixed"]
    if doubt.credibility is not None:
        parts.append(f"credibility {doubt.credibility:.2f}")
    if doubt.labels is not None:
        parts.append(f"{100 * (doubt.coverage or 0):g} % set: {', '.join(doubt.labels) or 'none'}")
    if answer.is_novel:
        parts.append("unlike anything cached")
    click.echo(f"{path}: {said['mixed']['label']} {said['mixed']['probability']:.2f} ({', '.join(parts)})")
