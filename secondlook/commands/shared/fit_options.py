"""Which images a bundle is fitted on, as commands are told it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from secondlook.indexer.datasets.datasets import Dataset, load, splits
from secondlook.indexer.datasets.folders import SPLIT_NAMES
from secondlook.model.images import Limits

holdout_option: Callable[..., Any] = click.option(
    "--holdout",
    metavar="SPLIT|DATASET",
    help="Labelled images that the network never saw and the cache does not hold, to fit on: a split of DATASET, or "
    "another dataset.  [default: its split val, or a tenth of it where the network was not trained on that]",
)
trained_option: Callable[..., Any] = click.option(
    "--trained",
    type=click.Choice(["yes", "no", "unknown"]),
    default="unknown",
    show_default=True,
    help="Whether the network was trained on DATASET's images; unknown: judged by its errors, where it was not trained "
    "here.",
)
unknown_option: Callable[..., Any] = click.option(
    "--unknown",
    multiple=True,
    help="Images of nothing that is cached, a folder or a dataset (its train split), to choose novelty on too; may be "
    "repeated.",
)


def holdout_of(dataset: str, named: str | None, data_root: Path | None, limits: Limits) -> Dataset | None:
    """Load the holdout that was named, a split of a dataset or another dataset; the dataset's split val where none was.

    Raises:
        DatasetError: there is no such split, or no such dataset.
    """
    if named is None:
        return load(dataset, "val", data_root, limits) if "val" in splits(dataset, data_root) else None
    if named in SPLIT_NAMES:
        return load(dataset, named, data_root, limits)
    there = splits(named, data_root)
    return load(named, next((split for split in ("val", "test") if split in there), "train"), data_root, limits)
