"""A bundle and the images that it is measured on, as ``evaluate`` and ``study`` are told them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    max_pixels_option,
    print_json,
)
from secondlook.indexer.datasets.datasets import Dataset, load, load_to_query
from secondlook.indexer.embedding.encoders import best_device
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import Study, show
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import NETWORK, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import Limits


@dataclass(frozen=True)
class Trial:
    """A bundle, and a dataset to measure it on."""

    bundle: Bundle
    dataset: Dataset
    named: str
    """The dataset as the user named it."""
    images: int | None
    """How many of its images; None where nobody said."""
    data_root: Path | None
    limits: Limits
    progress: Progress

    @classmethod
    def open(
        cls,
        dataset: str,
        root: Path | None,
        data_root: Path | None,
        generation: str | None,
        split: str,
        images: int | None,
        limits: Limits,
        progress: Progress,
    ) -> Trial:
        """Open what ``trial_options`` named.

        Raises:
            BundleError: there is no such bundle, or it is damaged.
            DatasetError: there is no such dataset, or its classes are not the bundle's.
        """
        root = root or default_root()
        generation = generation or active_generation(root)
        has_network = NETWORK in read_manifest(root, generation).files
        bundle = open_bundle(root, generation, device=best_device() if has_network else "cpu")
        queries = load_to_query(bundle.manifest.classes, dataset, split, data_root, limits)
        return cls(bundle, queries, dataset, images, data_root, limits, progress)

    def load(self, named: str, split: str) -> Dataset:
        """Load another dataset, or another split."""
        return load(named, split, self.data_root, self.limits)

    def cached(self) -> Dataset:
        """Load the split of the dataset that the bundle caches."""
        return self.load(self.named, self.bundle.manifest.dataset.split)


def trial_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments of ``Trial.open``, but for the progress."""
    for option in reversed(
        (
            click.argument("dataset"),
            bundles_option,
            data_root_option,
            generation_option,
            click.option("--split", default="test", show_default=True, help="train, val or test."),
            click.option(
                "--images", type=click.IntRange(1), help="Only so many of them, drawn at random but always the same."
            ),
            max_pixels_option,
        )
    ):
        command = option(command)
    return command


def tell(found: Study, as_json: bool) -> None:
    """Print a result as one JSON object, or as tables."""
    if as_json:
        print_json(**found.as_dict())
    else:
        show(found)
