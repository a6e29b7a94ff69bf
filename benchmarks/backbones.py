"""The backbones that packages carry, beside each other: bytes, speed, and what a few photos of each class come to.

Photos are embedded as each backbone's authors say. Of each draw, the cache has all entries vote, with the theta of the
least leave-one-out surprise; the linear head has one strength for all. Neither is mixed with the other.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.network import BATCH, ROUNDS, in_its_own_process
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.fitting.cross_validation import Choice, fit_linear_head
from secondlook.indexer.fitting.parameters import THETAS
from secondlook.indexer.progress import Progress
from secondlook.model.cache import Floats, Ints, vote
from secondlook.model.errors import DatasetError
from secondlook.model.networks.backbones import BACKBONES
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.engines import OnnxEngine
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.sources import open_network
from secondlook.model.scoring import nll

COUNTS = (5, 20, 100)
DRAWS = 3
STRENGTH = 30.0
"""Of the linear heads: backbones are compared, not strengths."""
_SPLITS = ("train", "test")


class Right(NamedTuple):
    """Of test photos, in percent; means of the draws."""

    cache: float
    linear: float


@dataclass(frozen=True)
class BackboneResult:
    """What one backbone costs, and is worth."""

    name: str
    licence: str
    """Of its weights' package."""
    bytes: int
    """Of its weights."""
    side: int
    milliseconds_one: float
    images_per_second: float
    """Of batches."""
    right: dict[str, dict[int, Right]]
    """By the photos' folder and photos of each class."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        right = {
            folder: {count: one._asdict() for count, one in counts.items()} for folder, counts in self.right.items()
        }
        return {**asdict(self), "right": right}


class _Keys(NamedTuple):
    keys: Floats
    labels: Ints


def backbones(photos: Path, for_seconds: float, progress: Progress) -> list[BackboneResult]:
    """Measure all of them on the folders of ``photos`` that have a train and a test split.

    Raises:
        DatasetError: there are none.
        NetworkError: a backbone's package is not installed.
    """
    folders = [folder for folder in sorted(photos.iterdir()) if all((folder / split).is_dir() for split in _SPLITS)]
    if not folders:
        raise DatasetError(f"{photos} has no folders of photos with the splits train and test: give another")
    with tempfile.TemporaryDirectory() as made:
        paths = {name: _exported(name, Path(made)) for name in BACKBONES}
        times: dict[str, list[dict[str, Any]]] = {name: [] for name in BACKBONES}
        for done in range(ROUNDS):  # they take turns
            for name, path in paths.items():
                times[name].append(in_its_own_process("as served", path, for_seconds / ROUNDS))
            progress("speed", done + 1, ROUNDS)
        right = {name: {folder.name: _few_shot(name, path, folder, progress) for folder in folders}
                 for name, path in paths.items()}  # fmt: skip
    return [
        BackboneResult(
            name,
            backbone.licence,
            backbone.bytes,
            backbone.side,
            float(np.median([one["milliseconds_one"] for one in times[name]])),
            float(np.median([one["images_per_second"] for one in times[name]])),
            right[name],
        )
        for name, backbone in BACKBONES.items()
    ]


def _exported(name: str, folder: Path) -> Path:
    network = open_network(name)
    assert isinstance(network, OnnxNetwork)
    path = folder / f"{name}.onnx"
    export_encoder(network, default_recipe(network), path, network.probe(5))
    return path


def _few_shot(name: str, encoder: Path, folder: Path, progress: Progress) -> dict[int, Right]:
    datasets = [load(str(folder), split) for split in _SPLITS]
    classes = datasets[0].classes
    if datasets[1].classes != classes:
        raise DatasetError(f"{folder} has other classes in test than in train")
    engine = OnnxEngine(encoder, spare_core=True)  # as it is served
    train, test = (_embedded(name, engine, dataset, progress) for dataset in datasets)
    most = int(np.bincount(train.labels, minlength=len(classes)).min())
    found = {}
    for count in (count for count in COUNTS if count <= most):
        draws = [_right(_drawn(train, count, draw), test, len(classes)) for draw in range(DRAWS)]
        found[count] = Right(*(float(np.mean(values)) for values in zip(*draws, strict=True)))
    return found


def _embedded(name: str, engine: OnnxEngine, dataset: Dataset, progress: Progress) -> _Keys:
    keys, places = [], []
    geometry = BACKBONES[name].preprocess.geometry
    for positions, images in batches(dataset, np.arange(len(dataset.labels)), geometry, BATCH):
        keys.append(engine.encode(images).keys)
        places.append(positions)
        progress("embed", sum(map(len, places)), len(dataset.labels))
    return _Keys(np.concatenate(keys), dataset.labels[np.concatenate(places)])


def _drawn(train: _Keys, count: int, draw: int) -> _Keys:
    random = np.random.default_rng((count, draw))
    some = [random.permutation(np.flatnonzero(train.labels == label))[:count] for label in np.unique(train.labels)]
    return _Keys(train.keys[np.concatenate(some)], train.labels[np.concatenate(some)])


def _right(train: _Keys, test: _Keys, classes: int) -> Right:
    own = train.keys @ train.keys.T
    np.fill_diagonal(own, -np.inf)
    values = np.broadcast_to(train.labels, own.shape)
    theta = min(THETAS, key=lambda theta: nll(vote(own, values, theta, classes), train.labels))
    said = vote(
        test.keys @ train.keys.T, np.broadcast_to(train.labels, (len(test.keys), len(train.keys))), theta, classes
    )
    linear = fit_linear_head(*train, classes, Choice(STRENGTH, (), 0)).head.logits(test.keys)
    return Right(*(100 * float((one.argmax(axis=1) == test.labels).mean()) for one in (said, linear)))
