"""The encoders of the CIFAR residual networks, by PyTorch: with pixel statistics of the dataset, and on a GPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches, read_all
from secondlook.indexer.embedding.encoders import TRAINED, OpenNetwork, PreparedEncoder, best_device, other_classes
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.files import ENCODER, NETWORK, encoder_files, encoder_id_of, file_sha256
from secondlook.model.errors import DatasetError, EngineError, RecipeError
from secondlook.model.manifest import NetworkInfo
from secondlook.model.networks.cifar_recipes import cifar_recipe
from secondlook.model.networks.engines import Engine, OnnxEngine
from secondlook.model.networks.preprocess import CIFAR
from secondlook.model.networks.recipe import Recipe

if TYPE_CHECKING:
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.encoder import Encoder
    from secondlook.model.networks.file import NetworkFile

log = logging.getLogger(__name__)

SAME_FIRST_CLASS = 0.999
"""A GPU runs the network in bfloat16 where at least this share of the holdout keeps its most probable class."""

PROJECTION_IMAGES = 10_000
"""Images that a key's projection is fitted on."""


@dataclass(frozen=True)
class FromCifar:
    """A CIFAR residual network in a safetensors file with a recipe (a name, or written out); needs torch."""

    network: Path
    recipe: str | Recipe
    test: Callable[[], Dataset] | None = None
    """Opens the dataset's test images, whose pixels the statistics of imported Keras weights include."""
    mirror_normalized: bool = False
    """Mirror images after their pixels are normalised, as the author of the imported weights did for his cache.

    Where each pixel has statistics of its own this gives other copies than mirroring first, which is how a mirrored
    image would reach the network in use.
    """

    def open(self, dataset: Dataset, progress: Progress) -> OpenNetwork:
        """The network, to compare recipes on.

        Raises:
            NetworkError, DatasetError, EngineError: as for ``prepare``.
        """
        file = open_cifar(self.network, dataset, self.test)
        from secondlook.model.networks.cifar_network import CifarNetwork

        network = CifarNetwork(file.network, file.class_names, self.network.name)
        return OpenNetwork(network, dataset.own_classes, None)

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        """Fit the recipe's projection on images outside the holdout, and export.

        Raises:
            NetworkError: the file does not fit.
            RecipeError: the recipe asks for what the network or the dataset cannot give.
            DatasetError: the dataset's classes are not the network's.
            EngineError: torch is not installed, or the export disagrees with PyTorch.
        """
        file = open_cifar(self.network, dataset, self.test)
        network = file.network
        from secondlook.model.networks.file import save_network
        from secondlook.model.networks.torch_engine import TorchEngine

        recipe = cifar_recipe(self.recipe, network.depth) if isinstance(self.recipe, str) else self.recipe
        device = best_device()
        encoder = fitted_encoder(network, recipe, dataset, device, progress)
        recipe = encoder.recipe
        encoder.cpu()
        progress("export", 0, 1)
        encoder.export(folder / ENCODER, CIFAR.geometry.size)
        progress("export", 1, 1)
        save_network(
            network,
            folder / NETWORK,
            classes=dataset.own_classes,
            trained_on=file.trained_on,
            projection=encoder.projection,
            trained=file.trained,
        )
        if file.trained is not None:
            np.save(folder / TRAINED, file.trained, allow_pickle=False)
        info = NetworkInfo(
            name=f"resnet{network.depth}",
            sha256=file_sha256(folder / NETWORK),
            trained_on=file.trained_on,
        )
        engine: Engine = OnnxEngine(folder / ENCODER)
        if device == "cuda":
            engine = TorchEngine(encoder, CIFAR.geometry.size, device)
            reduced = TorchEngine(encoder, CIFAR.geometry.size, device, bfloat16=True)
            if same_first_class(engine, reduced, dataset) >= SAME_FIRST_CLASS:
                engine, info = reduced, info.model_copy(update={"bfloat16": True})
        mirror_engine = None
        if self.mirror_normalized:
            # A mirrored image under mirrored statistics is the normalised image, mirrored.
            mirrored = copy.deepcopy(encoder)
            mirrored.network.pixel_mean = mirrored.network.pixel_mean.flip(-1)
            mirrored.network.pixel_std = mirrored.network.pixel_std.flip(-1)
            mirror_engine = TorchEngine(mirrored, CIFAR.geometry.size, device, bfloat16=info.bfloat16)
        # A key of a mirrored image under mirrored statistics, or one in bfloat16, is another one.
        is_kept = mirror_engine is None and not info.bfloat16
        features = encoder_id_of(encoder_files(folder), CIFAR.geometry)
        return PreparedEncoder(
            engine,
            info,
            recipe,
            CIFAR,
            dataset.own_classes,
            mirror_engine,
            file.trained,
            features=features if is_kept else None,
            logits_from=features,
        )


def open_cifar(path: Path, dataset: Dataset, test: Callable[[], Dataset] | None = None) -> NetworkFile:
    """A network for a dataset's classes, its pixel statistics taken where the file has none; needs torch.

    Raises:
        NetworkError: the file does not fit.
        DatasetError: the dataset's classes are not the network's.
        EngineError: torch is not installed.
    """
    try:
        from secondlook.model.networks.file import load_network
    except ModuleNotFoundError as error:
        raise EngineError(
            f"a new network or recipe needs {error.name}: install secondlook with the lab extra (or gpu)"
        ) from error
    file = load_network(path)
    names = file.class_names
    if (names is not None and names != dataset.own_classes) or file.network.classes != len(dataset.own_classes):
        raise DatasetError(other_classes(dataset, names or (f"{file.network.classes} unnamed ones",)))
    if not file.network.has_pixel_statistics:
        # Of training and test images: what the author of the imported weights took them of.
        datasets = [dataset, *([test()] if test else [])]
        file.network.set_pixel_statistics(np.concatenate([read_all(part, CIFAR.geometry)[0] for part in datasets]))
    return file


def fitted_encoder(network: ResNet, recipe: Recipe, dataset: Dataset, device: str, progress: Progress) -> Encoder:
    """The encoder of a recipe, its projection fitted on some of the dataset's images outside the holdout.

    Where there are fewer of them than the numbers that keys are to be reduced to, keys get as many numbers as images,
    which is said; the encoder's own recipe has that number.

    Raises:
        RecipeError: the recipe asks for a layer that there is not, or for more numbers than the layers give.
        DatasetError: no such image can be read.
    """
    import torch

    from secondlook.model.networks.encoder import Encoder, fit_projection
    from secondlook.model.networks.torch_engine import TorchEngine

    if recipe.reduce is None:
        return Encoder(network, recipe)
    wide = TorchEngine(Encoder(network, recipe.unreduced), CIFAR.geometry.size, device)
    candidates = np.setdiff1d(np.arange(len(dataset.labels)), dataset.holdout())
    sample = np.sort(np.random.default_rng(0).permutation(candidates)[:PROJECTION_IMAGES])
    if recipe.reduce > wide.dim:
        raise RecipeError(
            f"a key cannot be reduced to {recipe.reduce:,} numbers where the layers give {wide.dim:,}: give a smaller "
            "'reduce', or none"
        )
    features = np.empty((len(sample), wide.dim), np.float32)
    done = 0
    for indices, images in batches(dataset, sample, CIFAR.geometry, 64):
        features[done : done + len(indices)] = wide.encode(images).keys
        done += len(indices)
        progress("reduce", done, len(sample))
    if not done:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has too few images to fit a reduction of keys on")
    numbers = min(recipe.reduce, done)
    if numbers < recipe.reduce:
        log.warning(
            "keys are reduced to %d numbers, not to %d: there are only so many images to fit the reduction on",
            numbers,
            recipe.reduce,
        )
        recipe = replace(recipe, reduce=numbers)
    return Encoder(network, recipe, fit_projection(torch.from_numpy(features[:done]), numbers))


def same_first_class(engine: Engine, other: Engine, dataset: Dataset) -> float:
    """Share of the holdout's images whose most probable class is the same on both engines; 0 without a holdout."""
    same, seen = 0, 0
    for _, images in batches(dataset, dataset.holdout(), CIFAR.geometry, 64):
        same += int((engine.encode(images).logits.argmax(1) == other.encode(images).logits.argmax(1)).sum())
        seen += len(images)
    return same / seen if seen else 0.0
