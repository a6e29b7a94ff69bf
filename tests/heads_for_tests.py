"""Bundles of a network without a head, and of one that knows some of the classes only."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.embedding.encoders import PreparedEncoder
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.files import ENCODER, file_sha256
from secondlook.model.bundles.root import activate
from secondlook.model.manifest import NetworkInfo
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork, open_onnx
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


def classifier_of(dataset: Dataset, known: int, folder: Path) -> Path:
    """A network whose head was fitted on the first classes of a dataset, and knows no others."""
    build = Builder()
    pooled = build.pooled(build.trunk("image"))
    body = open_onnx(written(build.model(outputs=[pooled]), folder, "body"))
    images, positions = read_all(dataset, body.preprocess.geometry)
    labels = dataset.labels[positions]
    layer = body.default_layer
    seen = body.activations(images[labels < known], (layer,)).seen[layer].reshape(-1, 24)
    targets = 8 * np.eye(known, dtype=np.float32)[labels[labels < known]]
    spread = seen.T @ seen + 1e-3 * np.trace(seen.T @ seen) / 24 * np.eye(24)
    weights = np.linalg.solve(spread, seen.T @ targets).astype(np.float32)
    logits = build.node("Gemm", pooled, build.constant(weights), build.constant(np.zeros(known, np.float32)))
    return written(build.model(outputs=[logits]), folder, f"knows_{known}")


@dataclass(frozen=True)
class Exported:
    """The encoder of an ONNX network, with or without its head."""

    network: OnnxNetwork
    head: bool = True

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        recipe = default_recipe(self.network)
        images = np.stack([dataset.read(i, self.network.preprocess.geometry) for i in range(5)])
        engine = export_encoder(self.network, recipe, folder / ENCODER, images, head=self.head)
        info = NetworkInfo(name="onnx", sha256=file_sha256(folder / ENCODER))
        return PreparedEncoder(engine, info, recipe, self.network.preprocess, dataset.own_classes)


def headless_root(root: Path, dataset: Path, options: IndexOptions | None = None) -> Path:
    """A root whose active bundle's network has no head."""
    root.mkdir(exist_ok=True)
    network = open_onnx(written(backbone(), root.parent, f"{root.name}_backbone"))
    activate(root, index(load(str(dataset)), root, Exported(network), options or IndexOptions()))
    return root


def partial_root(root: Path, dataset: Path, known: int = 3, options: IndexOptions | None = None) -> Path:
    """A root whose active bundle's network knows the first classes only."""
    root.mkdir(exist_ok=True)
    labelled = load(str(dataset))
    network = open_onnx(classifier_of(labelled, known, root.parent))
    activate(root, index(labelled, root, Exported(network), options or IndexOptions()))
    return root
