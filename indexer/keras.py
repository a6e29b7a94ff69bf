"""Import of the Keras ResNets (v1) of 2018 from their .h5 files, the format of the cache paper's author."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from secondlook.model.errors import NetworkError
from secondlook.model.networks.cifar import DEPTHS, ResNet
from secondlook.model.networks.file import save_network


def import_keras(source: Path, out: Path) -> ResNet:
    """Read a Keras .h5 file (weights only; nothing in it is executed) and write it as safetensors.

    The file holds no pixel statistics: ``index`` computes them from the dataset, as its author did.

    Raises:
        NetworkError: not an .h5 file, or not a ResNet-20/32/44/56 v1; names the first tensor that differs.
    """
    try:
        with h5py.File(source, "r") as file:
            weights = _weights(file["model_weights"])
    except FileNotFoundError as error:
        raise NetworkError(f"there is no file {source}") from error
    except (OSError, KeyError) as error:
        raise NetworkError(f"{source} is not a Keras model file") from error
    convolutions = weights["conv2d"]
    depths = {(depth - 2) // 6 * 6 + 3: depth for depth in DEPTHS}
    if len(convolutions) not in depths or len(weights["dense"]) != 1:
        raise NetworkError(
            f"{source} has {len(convolutions)} convolutions: a ResNet v1 of depth {DEPTHS} has {tuple(depths)}"
        )
    network = ResNet(depths[len(convolutions)], weights["dense"][0]["kernel"].shape[1], "keras")
    next_convolution, next_norm = iter(convolutions), iter(weights["batch_normalization"])
    _set(network.stem[0], next(next_convolution), source)
    _set(network.stem[1], next(next_norm), source)
    for stage in network.stages:
        for block in stage:  # type: ignore[attr-defined]
            _set(block.conv1, next(next_convolution), source)
            _set(block.norm1, next(next_norm), source)
            _set(block.conv2, next(next_convolution), source)
            _set(block.norm2, next(next_norm), source)
            if not isinstance(block.shortcut, torch.nn.Identity):
                _set(block.shortcut, next(next_convolution), source)
    _set(network.head, weights["dense"][0], source)
    save_network(network.eval(), out, classes=None, trained_on=f"imported from {source.name}")
    return network


def _weights(group: h5py.Group) -> dict[str, list[dict[str, NDArray[np.float32]]]]:
    """Weights by kind of layer, in the order of construction (the number in the layer's name)."""
    found: dict[str, dict[int, dict[str, NDArray[np.float32]]]] = {"conv2d": {}, "batch_normalization": {}, "dense": {}}
    for layer in group:
        kind, _, number = layer.rpartition("_")
        if kind in found and number.isdigit():
            arrays: dict[str, NDArray[np.float32]] = {}

            def collect(name: str, item: object, arrays: dict[str, NDArray[np.float32]] = arrays) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays[name.rpartition("/")[2].removesuffix(":0")] = np.asarray(item, np.float32)

            group[layer].visititems(collect)
            found[kind][int(number)] = arrays
    return {kind: [layers[number] for number in sorted(layers)] for kind, layers in found.items()}


TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _set(module: torch.nn.Module, arrays: dict[str, NDArray[np.float32]], source: Path) -> None:
    norm = isinstance(module, torch.nn.BatchNorm2d)
    expected = {"gamma", "beta", "moving_mean", "moving_variance"} if norm else {"kernel", "bias"}
    for name in sorted(expected ^ arrays.keys()):
        raise NetworkError(f"{source}: tensor {name} is {'missing' if name in expected else 'too many'} for {module}")
    for keras_name, array in arrays.items():
        # Keras keeps kernels as (height, width, in, out) and dense weights as (in, out).
        value = torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T))
        target = getattr(module, TENSORS.get(keras_name, ""), None)
        if not isinstance(target, torch.Tensor) or target.shape != value.shape:
            raise NetworkError(f"{source}: tensor {keras_name} of shape {array.shape} does not fit {module}")
        with torch.no_grad():
            target.copy_(value)
