"""What the figures are measured on: networks from their authors' files or from a bundle, and parts of datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondlook.evaluation.paper.published import ROWS, Published, row_of
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.derived import subset
from secondlook.indexer.sources.from_cifar import open_cifar
from secondlook.model.bundles.files import NETWORK, read_manifest, require_module
from secondlook.model.errors import NetworkError

RECIPES = ("paper", "compact")
AS_IS = "as-is"
"""The recipe of a bundle that is measured without being built."""


@dataclass(frozen=True)
class Subject:
    """A network that the figures are measured on."""

    name: str
    """For people and for files: letters, digits, - and _."""
    dataset: str
    network: Path
    """A safetensors file with pixel statistics."""
    published: Published | None = None
    bundle: tuple[Path, str] | None = None
    """Root and generation of a bundle that is measured as it is, beside the recipes."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of what is measured."""
        return (AS_IS, *RECIPES) if self.bundle else RECIPES


def thinned(dataset: Dataset, count: int | None) -> Dataset:
    """Take so many images at equal distances, so that classes and holdout keep their shares; None = all."""
    total = len(dataset.labels)
    if count is None or count >= total:
        return dataset
    return subset(dataset, np.linspace(0, total - 1, count).round().astype(np.int64))


def from_weights(paths: Sequence[Path], out: Path, data_root: Path | None, dataset: str | None = None) -> list[Subject]:
    """Bring networks in .h5 or safetensors files, or in folders of the author's .h5 files, into ``out``.

    The author's own, known by their names, bring their dataset and parameters; others are of ``dataset``.

    Raises:
        NetworkError: a file does not fit, or a folder holds none of the author's weights.
        DatasetError: the images of a network's dataset are not there, or have other classes.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [file for file in sorted(path.glob("*.h5")) if row_of(file.name)]
            if not found:
                raise NetworkError(f"{path} has none of {', '.join(row.prefix + '*.h5' for row in ROWS)}")
            files += found
        else:
            files.append(path)
    return [_from_file(file, out, data_root, dataset) for file in files]


def _from_file(path: Path, out: Path, data_root: Path | None, dataset: str | None) -> Subject:
    from secondlook.indexer.keras import import_keras
    from secondlook.model.networks.file import save_network

    published = row_of(path.name)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")
    if published is not None:
        name, dataset = published.prefix, published.dataset
    if dataset is None:
        raise NetworkError(f"say with --dataset which images {path.name} knows")
    into = out / "networks" / f"{name}.safetensors"
    into.parent.mkdir(parents=True, exist_ok=True)
    source = path
    if path.suffix in (".h5", ".hdf5", ".keras"):
        import_keras(path, into)
        source = into
    train = load(dataset, "train", data_root)
    file = open_cifar(source, train, lambda: load(dataset, "test", data_root))
    save_network(file.network, into, classes=train.classes, trained_on=file.trained_on)
    return Subject(name, dataset, into, published)


def from_bundle(root: Path, generation: str, dataset: str | None = None) -> Subject:
    """Take a bundle's network, and the bundle itself beside the recipes.

    Raises:
        BundleError: it has no network that gradients could be taken of.
    """
    manifest = read_manifest(root, generation)
    require_module(manifest, "gradients are taken of")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{manifest.dataset.name}-{manifest.network.name}").strip("-")
    return Subject(name, dataset or manifest.dataset.name, root / generation / NETWORK, bundle=(root, generation))
