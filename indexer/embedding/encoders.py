"""Where an index's encoder comes from: an existing bundle, here, or a network (``indexer.sources``)."""

from __future__ import annotations

import difflib
import logging
import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.looks import GivenHoldout, read_given_holdout
from secondlook.indexer.embedding.linear_heads import need_linear_head, why_no_linear_head
from secondlook.indexer.progress import Progress
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.files import ENCODER, ENCODER_DATA, NETWORK, encoder_id, features_of, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.cache import Floats
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.images import Geometry
from secondlook.model.manifest import Manifest, NetworkInfo
from secondlook.model.networks.classes import Groups, of_groups
from secondlook.model.networks.engines import Engine
from secondlook.model.networks.network import Activations, Network
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.proof import PreprocessProof
from secondlook.model.networks.recipe import Recipe

log = logging.getLogger(__name__)

PROVEN = 5
"""Images that an encoder is proven on, when it is exported and when it is given a new head."""
TRAINED = "trained.npy"
"""A bundle's file of the digests of the images that its network was trained on."""


@dataclass(frozen=True)
class PreparedEncoder:
    """An encoder whose files lie in the draft of a bundle."""

    engine: Engine
    network: NetworkInfo
    recipe: Recipe
    preprocess: Preprocess
    """How images are brought to it; its arithmetic is in the encoder."""
    classes: tuple[str, ...]
    """The dataset's own, in the bundle's order: those that the network knows come first."""
    mirror_engine: Engine | None = None
    """The engine for mirrored copies where it is another one."""
    trained: NDArray[np.uint64] | None = None
    """Digests of the images that the network was trained on (``copies.Looks``), where it was noted."""
    proof: PreprocessProof | None = None
    """What labelled images said of the preprocessing."""
    holdout: GivenHoldout | None = None
    """The holdout that the bundle with this encoder was given."""
    features: str | None = None
    """What its keys depend on, whatever the head is: the name of what is kept of them; None = nothing is."""
    logits_from: str = ""
    """What its logits depend on, where they are kept beside the keys."""
    wants_linear: bool = False
    """Whether it has no head so far, and one is to be fitted to its keys (``fitting.linear_head``)."""
    tried: frozenset[str] = frozenset()
    """What was kept, as ``features`` is, of each way to feed the network that was tried: of no use with the bundle."""
    ahead: frozenset[bytes] = frozenset()
    """Digests of images of which ``features`` were kept thereby."""

    @property
    def geometry(self) -> Geometry:
        """How images are brought to it."""
        return self.preprocess.geometry


@dataclass(frozen=True)
class OpenNetwork:
    """A network for a dataset, before any key is made."""

    network: Network
    classes: tuple[str, ...]
    """The dataset's own: those that the network knows come first."""
    groups: Groups | None
    """For each class that it knows, which of the network's mean it; None = it knows all, and has no others."""

    def logits(self, activations: Activations) -> Floats:
        """(B,c) of the classes that it knows; c is 0 where it has no head for them."""
        if activations.logits is not None and self.groups is None:
            return activations.logits
        if activations.logits is None or not self.groups:
            return np.empty((len(next(iter(activations.seen.values()))), 0), np.float32)
        return of_groups(activations.logits, self.groups)


class EncoderSource(Protocol):
    """Puts an encoder's files into a bundle's draft."""

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        """Write encoder.onnx (and network.safetensors) into folder."""


@dataclass(frozen=True)
class FromBundle:
    """The encoder of an existing bundle, as it is."""

    root: Path
    generation: str | None = None

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        """Copy the files.

        Raises:
            BundleError: the bundle is refused.
            DatasetError: the dataset lacks a class that the network knows, or a linear head cannot be fitted to it.
            EngineError: the encoder has a linear head, and what fits a new one is not installed.
        """
        old = self.open(dataset)
        for name in (ENCODER, ENCODER_DATA, NETWORK, TRAINED):
            if name in old.manifest.files:
                shutil.copyfile(old.path / name, folder / name)
        encoder, manifest = prepared(old, dataset), old.manifest
        if manifest.head == "linear":
            encoder = _for_a_new_head(encoder, dataset, folder / ENCODER)
        elif manifest.head == "none" and manifest.is_taught_alone:  # there was nothing to fit one to
            encoder = replace(encoder, wants_linear=_is_enough(dataset))
        if manifest.dataset.name != dataset.name:  # of other images nobody has said anything
            encoder = replace(encoder, network=manifest.network.model_copy(update={"trained_on_these": "unknown"}))
        return replace(
            encoder, trained=read_trained(old.path, manifest), holdout=read_given_holdout(old.path, manifest)
        )

    def open(self, dataset: Dataset, threads: int = 0) -> bundles.OpenEncoder:
        """The encoder where it lies, on a GPU where there is one; on a processor with so many threads, 0 = all cores.

        Raises:
            BundleError: the bundle is refused.
            DatasetError: the dataset lacks a class that the network knows.
        """
        generation = self.generation or active_generation(self.root)
        has_network = NETWORK in read_manifest(self.root, generation).files
        device = best_device() if has_network else "cpu"
        old = bundles.open_encoder(self.root, generation, device=device, threads=threads)
        _in_order(dataset, old.manifest)
        return old


def read_trained(folder: Path, manifest: Manifest) -> NDArray[np.uint64] | None:
    """Digests of the images that a bundle's network was trained on; None where that was not noted.

    Raises:
        BundleError: their file is damaged.
    """
    if TRAINED not in manifest.files:
        return None
    try:
        return np.asarray(np.load(folder / TRAINED, allow_pickle=False), np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{manifest.generation}/{TRAINED} does not hold digests") from error


def best_device() -> Literal["cpu", "cuda"]:
    """A GPU where PyTorch is installed and finds one."""
    # Importing PyTorch takes seconds, so the driver is looked for first (/dev/dxg is that of Windows' Linux).
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/dxg")) or find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def prepared(opened: bundles.OpenEncoder, dataset: Dataset) -> PreparedEncoder:
    """A bundle's encoder for a dataset.

    Raises:
        DatasetError: the dataset lacks a class that the network knows.
    """
    manifest = opened.manifest
    classes = _in_order(dataset, manifest)
    return PreparedEncoder(
        opened.engine,
        manifest.network,
        manifest.recipe,
        manifest.preprocess,
        classes,
        proof=manifest.proof,
        features=features_of(manifest),
        logits_from=encoder_id(manifest) if manifest.head == "network" else "",
    )


def _for_a_new_head(encoder: PreparedEncoder, dataset: Dataset, path: Path) -> PreparedEncoder:
    """A bundle's encoder, copied to a path, without its linear head: entries that have changed get a new one.

    Of what was taught alone, little may be left: then there is none until there is more.
    """
    if dataset.own_classes:
        need_linear_head(dataset.labels)
    from secondlook.model.networks.linear_graph import take_out_linear_head

    network = encoder.network.model_copy(update={"classes": 0})
    wants_linear = bool(dataset.own_classes) or _is_enough(dataset)
    return replace(encoder, engine=take_out_linear_head(path), network=network, wants_linear=wants_linear)


def _is_enough(dataset: Dataset) -> bool:
    """Whether a linear head can be fitted to a dataset; what stands in the way is logged."""
    if (why := why_no_linear_head(dataset.labels)) is not None:
        log.warning("%s: the cache answers alone", why)
    return why is None


def _in_order(dataset: Dataset, manifest: Manifest) -> tuple[str, ...]:
    """A dataset's own classes in the order in which a bundle has them, those that it has not last.

    Raises:
        DatasetError: it lacks one that the network knows.
    """
    # A linear head is fitted anew to whatever classes there are.
    needed = () if manifest.head == "linear" else manifest.network_classes
    if missing := [name for name in needed if name not in dataset.own_classes]:
        said = other_classes(dataset, manifest.network_classes)
        others = [name for name in dataset.own_classes if name not in manifest.classes]
        if near := difflib.get_close_matches(missing[0], others, 1, 0.6):
            raise DatasetError(f"{said}: rename {near[0]}, if it is {missing[0]}")
        if not others and manifest.network.all_classes is not None:
            raise DatasetError(
                f"{said}: give --network {manifest.network.name} again, of whose classes some are enough"
            )
        raise DatasetError(f"{said}: give --network for one that knows others")
    place = {name: i for i, name in enumerate(manifest.classes)}
    return tuple(sorted(dataset.own_classes, key=lambda name: place.get(name, len(place))))


def other_classes(dataset: Dataset, classes: tuple[str, ...]) -> str:
    """Say that a dataset has other classes than a network knows."""

    def few(names: tuple[str, ...]) -> str:
        return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")

    has = f"the classes {few(dataset.own_classes)}" if dataset.own_classes else "no classes of its own,"
    return f"{dataset.name} has {has} but the network knows {few(classes)}"
