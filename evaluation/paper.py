"""The paper's error table from its author's own weights: ``make paper``.

For each .h5 file found in SECONDLOOK_AUTHOR_WEIGHTS: import it, cache all training images and their mirrored copies
under the paper's recipe (12,288 numbers a key), and sum exactly over all of them for every test image, with the theta
and lam of the author's published scripts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluation.evaluate import Evaluation, evaluate
from indexer.datasets import load
from indexer.encoders import FromNetwork
from indexer.index import IndexOptions, index
from indexer.keras import import_keras
from indexer.progress import Progress, on_terminal
from model.bundle import open_bundle
from model.errors import SecondlookError
from model.predictor import Parameters


@dataclass(frozen=True)
class Published:
    """One row of the author's: weights, the parameters in his scripts, and the errors in percent."""

    prefix: str
    dataset: str
    theta: float
    lam: float
    cache_theta: float
    network: float | None = None
    mixed: float | None = None


# CIFAR-100's published errors are over 10,000 test images and compare only with all of those.
ROWS = (
    Published("cifar10_ResNet20", "cifar10", 80.0, 0.5111, 74.4444, 8.33, 7.58),
    Published("cifar10_ResNet32", "cifar10", 85.5556, 0.5111, 72.2222, 7.74, 7.01),
    Published("cifar100_ResNet32", "cifar100", 81.1111, 0.5111, 52.2222),
)


def reproduce(row: Published, weights: Path, data_root: Path, progress: Progress) -> Evaluation:
    """Measure one row; needs 10 GB of memory and 5 GB of disk while it runs."""
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.safetensors"
        import_keras(weights, network)
        options = IndexOptions(
            store="Flat", mirror=True, parameters=Parameters(row.theta, row.lam, None), thumbnails=False
        )
        dataset = load(row.dataset, "train", data_root)
        generation = index(
            dataset,
            Path(folder),
            FromNetwork(network, "paper", lambda: load(row.dataset, "test", data_root), mirror_normalized=True),
            options,
            progress,
        )
        bundle = open_bundle(Path(folder), generation)
        test = load(row.dataset, "test", data_root)
        return evaluate(bundle, test, cache_theta=row.cache_theta, exact=True, progress=progress)


def main() -> None:
    """Measure every row whose weights and images are there; exit 1 where a published error is missed."""
    weights, data = os.environ.get("SECONDLOOK_AUTHOR_WEIGHTS"), os.environ.get("SECONDLOOK_DATA")
    if not weights or not data:
        sys.exit("set SECONDLOOK_AUTHOR_WEIGHTS to the folder of the author's .h5 files and SECONDLOOK_DATA to CIFAR")
    table = Table(title="exact sum over 100,000 entries of 12,288 numbers (published error in brackets)")
    for column in ("weights", "test images", "network %", "mixed %", "cache only %", "ECE % network, mixed", "minutes"):
        table.add_column(column, justify="right")
    missed = False
    for row in ROWS:
        for path in sorted(Path(weights).glob(f"{row.prefix}*.h5")):
            started = time.perf_counter()
            try:
                with on_terminal() as progress:
                    result = reproduce(row, path, Path(data), progress)
            except SecondlookError as error:
                sys.exit(f"{path.name}: {error}")
            cells = []
            for found, published in ((result.network, row.network), (result.mixed, row.mixed)):
                cells.append(f"{found.error_percent:.2f}" + (f" ({published:.2f})" if published else ""))
                missed |= published is not None and abs(found.error_percent - published) > 0.0101
            ece = f"{result.network.ece_percent:.2f}, {result.mixed.ece_percent:.2f}"
            minutes = f"{(time.perf_counter() - started) / 60:.1f}"
            cells += [f"{result.cache_only.error_percent:.2f}", ece, minutes]
            table.add_row(row.prefix, f"{result.count:,}", *cells)
    if not table.row_count:
        sys.exit(f"{weights} has none of {', '.join(row.prefix + '*.h5' for row in ROWS)}")
    Console().print(table)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
