"""Attacks on the network, and on each model itself, as one study of the three models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondlook.evaluation.robustness import white_box
from secondlook.evaluation.robustness.attack_results import AttackStudy, Example, Judged
from secondlook.evaluation.robustness.attacks import ATTACKS, PRESETS, Attack, Crafted, craft
from secondlook.evaluation.robustness.models import NAMES, Models, Opinions
from secondlook.evaluation.robustness.white_box import AT_ONCE
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.progress import Progress, silent
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.errors import DatasetError


@dataclass(frozen=True)
class Sample:
    """Images drawn from a dataset, and what the three models say of them as they are."""

    pixels: Tensor
    """(N,H,W,3) float, 0 to 255."""
    labels: Tensor
    """(N,)."""
    x: Tensor
    """(N,3,H,W) normalised pixels."""
    right: dict[str, NDArray[np.bool_]]
    """For each model (N,): whether it is right."""


def draw_sample(bundle: Bundle, models: Models, dataset: Dataset, count: int) -> Sample:
    """Draw so many images of a dataset with a fixed seed, all where there are fewer.

    Raises:
        DatasetError: the dataset's classes are not the bundle's, or none of its images is readable.
    """
    dataset = of_bundle(dataset, bundle.manifest)
    wanted = np.sort(np.random.default_rng(0).permutation(len(dataset.labels))[:count])
    read = list(batches(dataset, wanted, bundle.geometry, AT_ONCE))
    if not read:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    device = models.cache.place.device
    pixels = torch.from_numpy(np.concatenate([images for _, images in read])).to(device).float()
    labels = torch.from_numpy(dataset.labels[np.concatenate([positions for positions, _ in read])]).to(device)
    x = models.encoder.network.normalize(pixels)
    return Sample(pixels, labels, x, _right(_opinions(models, x), labels))


def attack_study(
    bundle: Bundle,
    models: Models,
    dataset: Dataset,
    images: int,
    *,
    attacks: Sequence[Attack] = ATTACKS,
    preset: str = "orhan2018",
    by_size: bool = True,
    own_gradient: bool = False,
    epsilons: Sequence[float] = white_box.EPSILONS,
    made: dict[Attack, Crafted] | None = None,
    progress: Progress = silent,
) -> AttackStudy:
    """Attack so many images of a dataset, and ask the three models.

    ``by_size`` adds attacks on the network of fixed sizes (epsilons, in units of 0 to 255), ``own_gradient`` those on
    each model through its own gradient. ``made`` keeps what attacks on the network found: handed on to a study with the
    same network, images and preset under another key recipe, they are not made again.

    Raises:
        DatasetError: the dataset's classes are not the bundle's, or none of its images is readable.
    """
    sample = draw_sample(bundle, models, dataset, images)
    held = torch.from_numpy(sample.right["network"]).to(sample.labels.device).nonzero()[:, 0]
    made = {} if made is None else made
    network = models.encoder.network
    judged, said = [], {}
    for attack in attacks:
        if attack not in made and len(held):
            made[attack] = craft(network, sample.x[held], sample.labels[held], attack, PRESETS[preset], progress)
        if attack in made:
            crafted = made[attack]
            opinions = _opinions(models, crafted.images)
            labels = sample.labels[held[torch.from_numpy(crafted.positions).to(held.device)]]
            judged.append(Judged(attack, len(held), crafted.sizes, _right(opinions, labels)))
            said[attack] = opinions
    manifest = bundle.manifest
    return AttackStudy(
        dataset.name,
        dataset.split,
        manifest.generation,
        {"theta": models.theta, "lam": models.lam, "k": models.k, "cache_theta": models.cache_theta},
        preset,
        sample.right,
        tuple(judged),
        tuple(white_box.transfer(models, sample.pixels, sample.labels, epsilons, progress)) if by_size else (),
        tuple(white_box.white_box(models, sample.pixels, sample.labels, epsilons, progress=progress))
        if own_gradient
        else (),
        _examples(models, sample, held, made, said, manifest.classes),
    )


def _opinions(models: Models, x: Tensor) -> Opinions:
    """What the models say of normalised pixels (n,3,H,W)."""
    with torch.inference_mode():
        parts = [models.opinions(*models.encode_normalized(part)) for part in torch.split(x, AT_ONCE)]
        return Opinions(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _right(opinions: Opinions, labels: Tensor) -> dict[str, NDArray[np.bool_]]:
    return {n: (given.argmax(1) == labels).cpu().numpy() for n, given in zip(NAMES, opinions, strict=True)}


def _examples(
    models: Models,
    sample: Sample,
    held: Tensor,
    made: Mapping[Attack, Crafted],
    said: Mapping[Attack, Opinions],
    classes: tuple[str, ...],
) -> tuple[Example, ...]:
    """One image for each attack: the first that most attacks succeed with, where they do."""
    times = np.zeros(len(held), int)
    for attack in said:
        times[made[attack].positions] += 1
    network, found = models.encoder.network, []
    for attack, opinions in said.items():
        positions = made[attack].positions
        if not len(positions):
            continue
        place = int(times[positions].argmax())
        position = int(held[positions[place]])
        after = made[attack].images[place] * network.pixel_std + network.pixel_mean
        top = {name: given[place].max(0) for name, given in zip(NAMES, opinions, strict=True)}
        found.append(
            Example(
                attack,
                (sample.pixels[position] / 255).cpu().numpy(),
                after.permute(1, 2, 0).cpu().numpy(),
                classes[int(sample.labels[position])],
                {name: (classes[int(which)], float(probability)) for name, (probability, which) in top.items()},
            )
        )
    return tuple(found)
