"""What is measured: encoders and images."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import secondlook.model
from benchmarks.gpu.plan import NotHereError, Plan
from secondlook.indexer.datasets.published import read_published
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import DatasetError
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.cifar_recipes import cifar_recipe
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.recipe import Recipe
from secondlook.model.networks.torch_engine import TorchEngine

DEFAULT = Path(secondlook.model.__file__).parent / "default"
SIDE, QUICK_SIDE = 224, 64
NARROWER = 4
"""ResNet-50's channels are divided by it in a quick run."""
CLASSES = 1000
KEY = 256
"""Numbers of a key of the ImageNet-sized networks."""


@dataclass(frozen=True)
class Subject:
    """An encoder, on the processor and in float32 as it was made."""

    name: str
    encoder: Encoder
    size: tuple[int, int]
    is_trained: bool

    def engine(self, device: str, precision: str = "float32") -> TorchEngine:
        """Return the project's engine for it, with weights of its own."""
        return TorchEngine(copy.deepcopy(self.encoder), self.size, device, bfloat16=precision == "bfloat16")


def cifar() -> Subject:
    """The default bundle's encoder; one with random weights where safetensors is not installed."""
    folder = DEFAULT / (DEFAULT / "CURRENT").read_text().strip()
    try:
        from secondlook.model.networks.file import load_network
    except ModuleNotFoundError:
        return Subject("resnet32, random weights (safetensors is not installed)", _random_cifar(), (32, 32), False)
    written = json.loads((folder / "manifest.json").read_text())["recipe"]
    parts: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in written.items()}
    file = load_network(folder / "network.safetensors")
    return Subject(
        "resnet32 of the default bundle", Encoder(file.network, Recipe(**parts), file.projection), (32, 32), True
    )


def _random_cifar() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet(32).eval()
        recipe = cifar_recipe("compact", 32)
        projection = _directions(3 * 64 * 8 * 8, cast(int, recipe.reduce))
    network.set_pixel_statistics(made(64, (32, 32)))
    return Encoder(network, recipe, projection)


class ImageNetwork(nn.Module):
    """A classifier of features (B,F), with what ``Encoder`` asks of a network; its one layer is called pool."""

    has_pixel_statistics = True

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))

    def check_layers(self, layers: tuple[str, ...]) -> None:
        """Refuse none: only pool is asked for."""
        assert layers == ("pool",)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B,H,W,3) uint8 -> (B,3,H,W) float32."""
        return (images.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.std

    def activations(self, x: Tensor, layers: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B,C), and the features as pool."""
        pooled = self.features(x)
        return self.head(pooled), {"pool": pooled}


def imagenet(name: str, plan: Plan) -> Subject:
    """``resnet50``, made of PyTorch alone, or ``efficientnet_b0`` of torchvision; with random weights.

    Raises:
        NotHereError: torchvision is needed, and is not installed or does not load.
    """
    side = QUICK_SIDE if plan.quick else SIDE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImageNetwork(*(_resnet50(NARROWER if plan.quick else 1) if name == "resnet50" else _efficientnet()))
        _settle(network, side)
        with torch.inference_mode():
            width = network.features(torch.zeros(1, 3, side, side)).shape[1]
        projection = _directions(width, KEY)
    recipe = Recipe(layers=("pool",), reduce=KEY)
    encoder = Encoder(cast(Any, network), recipe, projection)  # it has of a ResNet what an encoder asks for
    narrowed = f" of a {NARROWER}th of its width" if plan.quick and name == "resnet50" else ""
    return Subject(f"{name}{narrowed}, random weights, at {side}", encoder, (side, side), False)


class Bottleneck(nn.Module):
    """ResNet-50's block (He et al., 2015), with its stride in the 3x3 convolution."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            *_convolution(channels_in, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, out, 1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != out:
            self.shortcut = nn.Sequential(*_convolution(channels_in, out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,4 width,H/stride,W/stride)."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> Iterator[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    yield convolution
    yield nn.BatchNorm2d(channels_out)


def _resnet50(narrower: int) -> tuple[nn.Module, nn.Module]:
    channels = 64 // narrower
    layers: list[nn.Module] = [*_convolution(3, channels, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 // narrower << stage
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(channels, CLASSES)


def _efficientnet() -> tuple[nn.Module, nn.Module]:
    try:
        from torchvision.models import efficientnet_b0
    except ModuleNotFoundError as error:
        raise NotHereError(f"{error.name} is not installed") from error
    except RuntimeError as error:  # one that was not built for this PyTorch
        raise NotHereError(f"torchvision does not load: {error}") from error
    network = efficientnet_b0(weights=None)
    return nn.Sequential(network.features, network.avgpool, nn.Flatten()), network.classifier


def _settle(network: ImageNetwork, side: int) -> None:
    """Give batch norms the statistics of images, without which random activations grow from block to block."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        network.features(network.normalize(torch.from_numpy(made(8, (side, side)))))
    network.eval()


def _directions(width: int, numbers: int) -> Tensor:
    directions: Tensor = torch.linalg.qr(torch.randn(width, numbers))[0]
    return directions.half()


def made(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Images (N,H,W,3) of smooth colours and some noise, each another."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    rows, columns = (np.linspace(0, 3, length) for length in size)
    smooth = _between(_between(coarse, rows, 1), columns, 2)
    noise = random.integers(-16, 17, smooth.shape, dtype=np.int8)
    images: NDArray[np.uint8] = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return images


def _between(values: NDArray[np.float32], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Values at places between whole ones."""
    low = np.minimum(places.astype(np.int64), values.shape[axis] - 2)
    shape = [1] * values.ndim
    shape[axis] = len(places)
    share = (places - low).astype(np.float32).reshape(shape)
    return np.asarray((1 - share) * values.take(low, axis) + share * values.take(low + 1, axis), np.float32)


def cifar_images(plan: Plan, split: str, count: int) -> tuple[NDArray[np.uint8], Ints | None, str]:
    """The first images (N,32,32,3) of a split of CIFAR-10 with their labels, and what they are.

    Made ones, without labels, where there are none.
    """
    if plan.data is None:
        return made(count, (32, 32), seed=len(split)), None, "made images (no --data was given)"
    try:
        batches = read_published("cifar10", split, plan.data)
    except DatasetError as error:
        return made(count, (32, 32), seed=len(split)), None, f"made images ({error})"
    return batches.images[:count], batches.labels[:count], f"CIFAR-10 {split}"


def keys(count: int, dim: int, seed: int) -> Floats:
    """Unit keys at random."""
    made = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made
