"""Networks in safetensors files: every tensor of the network, and in the header what it is.

The header's fields: ``arch`` (``resnet32``), ``variant``, ``classes`` (a JSON list of names, or their number where
the names are not known) and ``trained_on`` (for people).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secondlook.model.errors import NetworkError
from secondlook.model.networks.cifar import ResNet

PROJECTION = "encoder.projection"
TRAINED = "trained.images"


@dataclass(frozen=True)
class NetworkFile:
    """A network as read from its file, in evaluation mode, with its class names where the file has them."""

    network: ResNet
    class_names: tuple[str, ...] | None
    trained_on: str
    projection: Tensor | None
    """The fitted projection of a bundle's key recipe, where the file is a bundle's."""
    trained: NDArray[np.uint64] | None = None
    """Digests of the pixels of the images that it was trained on, where that was noted."""


def save_network(
    network: ResNet,
    path: Path,
    *,
    classes: tuple[str, ...] | None,
    trained_on: str,
    projection: Tensor | None = None,
    trained: NDArray[np.uint64] | None = None,
) -> None:
    """Write the network (and a key recipe's projection, and which images it was trained on) to path, atomically."""
    header = {
        "arch": f"resnet{network.depth}",
        "variant": network.variant,
        "classes": json.dumps(list(classes) if classes else network.classes),
        "trained_on": trained_on,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if projection is not None:
        tensors[PROJECTION] = projection.detach().cpu().contiguous()
    if trained is not None:
        tensors[TRAINED] = torch.from_numpy(trained.view(np.int64).copy())
    temporary = path.with_name(path.name + ".new")
    save_file(tensors, temporary, header)
    temporary.chmod(0o644)  # safetensors writes for its owner alone, but a bundle may be served by another user
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_network(path: Path) -> NetworkFile:
    """Read a network.

    Raises:
        NetworkError: no such file, not safetensors, or tensors that do not fit (names the first that differs).
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise NetworkError(f"there is no network file {path}") from error
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{path} is not a whole safetensors file") from error
    try:
        arch, variant, classes = header["arch"], header["variant"], json.loads(header["classes"])
        depth = int(arch.removeprefix("resnet"))
    except (KeyError, ValueError) as error:
        raise NetworkError(
            f"{path} does not say which network it holds: make it with secondlook train or import-keras"
        ) from error
    projection, trained = tensors.pop(PROJECTION, None), tensors.pop(TRAINED, None)
    count = classes if isinstance(classes, int) else len(classes)
    network = ResNet(depth, count, variant)
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "none"
        want = tuple(expected[name].shape) if name in expected else "none"
        if have != want:
            raise NetworkError(f"{path}: tensor {name} has shape {have}, {arch} ({variant}) has {want}")
    network.load_state_dict(tensors)
    names = tuple(classes) if isinstance(classes, list) else None
    digests = None if trained is None else trained.numpy().view(np.uint64)
    return NetworkFile(network.eval(), names, header.get("trained_on", ""), projection, digests)
