"""Bundles of a network without a head, and of one that knows some of the classes only."""

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork, HeadChoice
from secondlook.model.bundles.root import activate
from secondlook.model.networks.onnx_network import open_onnx
from tests.networks_for_tests import SIDE, Builder, backbone, written

COLOURS = {
    "blue": (30, 60, 200),
    "green": (40, 180, 60),
    "red": (200, 40, 30),
    "violet": (150, 40, 170),
    "yellow": (220, 210, 40),
}


def pixels(colour: str, seed: int, noise: float = 45) -> NDArray[np.uint8]:
    """A noisy picture of a class."""
    random = np.random.default_rng(seed)
    tint = np.array(COLOURS[colour]) + random.normal(0, 25, 3)
    return np.clip(tint + random.normal(0, noise, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def png(colour: str, seed: int) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(colour, seed)).save(buffer, "PNG")
    return buffer.getvalue()


def write_colours(root: Path, per_class: int = 16, seed: int = 0, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Class folders of some of the colours."""
    for place, colour in enumerate(COLOURS):
        if colour in names:
            (root / colour).mkdir(parents=True)
            for i in range(per_class):
                (root / colour / f"{i:02d}.png").write_bytes(png(colour, 10_000 * seed + 100 * place + i))
    return root


KNOWN = ("blue", "red", "yellow")
"""Classes that the network of ``partial_root`` knows."""


def classifier_of(dataset: Dataset, known: tuple[str, ...], folder: Path) -> Path:
    """A network whose head was fitted on some classes of a dataset, and names them."""
    build = Builder()
    pooled = build.pooled(build.trunk("image"))
    body = open_onnx(written(build.model(outputs=[pooled]), folder, "body"))
    images, positions = read_all(dataset, body.preprocess.geometry)
    names = np.array(dataset.classes)[dataset.labels[positions]]
    some = np.isin(names, known)
    layer = body.default_layer
    seen = body.activations(images[some], (layer,)).seen[layer].reshape(-1, 24)
    targets = 8 * np.eye(len(known), dtype=np.float32)[[known.index(name) for name in names[some]]]
    spread = seen.T @ seen + 1e-3 * np.trace(seen.T @ seen) / 24 * np.eye(24)
    weights = np.linalg.solve(spread, seen.T @ targets).astype(np.float32)
    zeros = np.zeros(len(known), np.float32)
    logits = build.node("Gemm", pooled, build.constant(weights), build.constant(zeros))
    declared = {"names": str(dict(enumerate(known)))}
    return written(build.model(outputs=[logits], metadata=declared), folder, "classifier")


def headless_root(root: Path, dataset: Path, options: IndexOptions | None = None, head: HeadChoice = "none") -> Path:
    """A root whose active bundle's network has no head, or a linear one."""
    root.mkdir(exist_ok=True)
    network = written(backbone(), root.parent, f"{root.name}_backbone")
    # Its weights are random: no pixels are the ones that it was trained on, and what is measured would be chance.
    preprocess = root.parent / f"{root.name}_preprocess.json"
    preprocess.write_text(
        json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}, "is_certain": True})
    )
    source = FromNetwork(str(network), preprocess=preprocess, head=head)
    activate(root, index(load(str(dataset)), root, source, options or IndexOptions()))
    return root


def partial_root(root: Path, dataset: Path, options: IndexOptions | None = None) -> Path:
    """A root whose active bundle's network knows three of five classes: those come first."""
    root.mkdir(exist_ok=True)
    labelled = load(str(dataset))
    network = classifier_of(labelled, KNOWN, root.parent)
    activate(root, index(labelled, root, FromNetwork(str(network)), options or IndexOptions()))
    return root
