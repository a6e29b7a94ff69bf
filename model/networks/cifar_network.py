"""The CIFAR residual networks as a Network, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from secondlook.model.errors import NetworkError
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.file import load_network
from secondlook.model.networks.network import Activations, Layer, check_layers
from secondlook.model.networks.preprocess import CIFAR


class CifarNetwork:
    """A residual network with the statistics of its pixels; its layers are named after their places.

    Raises:
        NetworkError: the statistics of its pixels are not known.
    """

    default_layer = "pool"

    def __init__(self, network: ResNet, classes: tuple[str, ...] | None, name: str) -> None:
        if not network.has_pixel_statistics:
            raise NetworkError(f"{name} does not say how it takes pixels: index a dataset with it first")
        self.network, self.name, self.preprocess = network.eval(), name, CIFAR
        self.classes: tuple[str, ...] | None = classes or tuple(map(str, range(network.classes)))
        self._layers: dict[str, Layer] | None = None

    def layers(self) -> Mapping[str, Layer]:
        """Those of its blocks."""
        if self._layers is None:
            names = tuple(self.network.layer_names())
            seen = self.activations(np.zeros((2, *CIFAR.geometry.size, 3), np.uint8), names, check=False).seen
            self._layers = {
                name: Layer(tensor.shape[1:], "feature map" if tensor.ndim == 4 else "vector")
                for name, tensor in seen.items()
            }
        return self._layers

    def activations(self, images: NDArray[np.uint8], names: Sequence[str] = (), *, check: bool = True) -> Activations:
        """One forward pass."""
        if check:
            check_layers(names, self.layers(), self.name)
        with torch.inference_mode():
            normalized = self.network.normalize(torch.from_numpy(images))
            logits, seen = self.network.activations(normalized, tuple(names))
        return Activations(logits.numpy(), {name: tensor.numpy() for name, tensor in seen.items()})


def open_cifar(path: Path) -> CifarNetwork:
    """A network in a safetensors file of ``secondlook train`` or ``import-keras``.

    Raises:
        NetworkError: it is none.
    """
    file = load_network(path)
    return CifarNetwork(file.network, file.class_names, path.name)
