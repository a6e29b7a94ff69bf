"""The encoder of any network, as it is: what it takes is measured, its classes are matched, its graph gives keys."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.encoders import PROVEN, OpenNetwork, PreparedEncoder
from secondlook.indexer.embedding.kept_tries import KeptTries
from secondlook.indexer.embedding.linear_heads import need_linear_head, why_no_linear_head
from secondlook.indexer.fitting.drawn import Drawn, draw
from secondlook.indexer.fitting.evidence import BATCH, Seen, given, seen_in
from secondlook.indexer.fitting.pooling import best_pool
from secondlook.indexer.fitting.preprocessing import losses, measure
from secondlook.indexer.fitting.race import MOST, Decode, See, see_all
from secondlook.indexer.fitting.views import Choice
from secondlook.indexer.progress import Progress
from secondlook.indexer.sources.measured_before import proof_before
from secondlook.model.bundles.files import ENCODER, encoder_files, encoder_id_of
from secondlook.model.cache import Floats
from secondlook.model.errors import DatasetError, NetworkError
from secondlook.model.manifest import NetworkInfo
from secondlook.model.networks.classes import ClassMatch, Groups, match_classes, read_class_map
from secondlook.model.networks.encoder_graph import export_encoder, features_id
from secondlook.model.networks.engines import Encoding
from secondlook.model.networks.keys import keys_of
from secondlook.model.networks.network import Network, check_recipe, default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.projection import Covariance
from secondlook.model.networks.proof import PreprocessProof
from secondlook.model.networks.recipe import Recipe
from secondlook.model.networks.sources import open_network

log = logging.getLogger(__name__)

HeadChoice = Literal["auto", "network", "linear", "none"]

MEASURED = MOST
"""Images that a network's preprocessing is measured on."""
POOLED = 200
"""Images by which the class token is held against the mean of tokens."""
PROJECTION_IMAGES = 10_000
"""Images that a key's projection is fitted on."""
FEWEST_KNOWN = 2
"""Classes that a network has to know for its head to be of use: of one alone it is always sure."""


class _Opened(NamedTuple):
    network: OpenNetwork
    match: ClassMatch | None
    drawn: Drawn
    proof: PreprocessProof | None
    """None where there are no images to measure on."""
    tries: KeptTries | None
    """What was kept of that."""


@dataclass(frozen=True)
class FromNetwork:
    """A network by its name (``model.networks.sources``), for a dataset of any classes."""

    name: str
    recipe: Recipe | None = None
    """None = the input of the head."""
    preprocess: Path | None = None
    """A JSON file; None = what the network declares."""
    class_map: Path | None = None
    """Lines of a dataset's class, TAB, the network's class; None = matched by name."""
    head: HeadChoice = "auto"
    """``auto`` = the network's, where it knows the dataset's classes, else a linear one, where that can be fitted."""
    may_mirror: bool = True
    """Whether the mean with the mirrored image may be chosen: not where mirrored copies are cached."""
    root: Path | None = None
    """Where what is measured is kept (``embedding.kept_tries``), and whose active bundle may be of the same network:
    what was measured for it holds for mostly the same images.
    """

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        """Export the network with its preprocessing, the dataset's classes, and the key recipe.

        Raises:
            NetworkError: there is no such network, it takes other pixels than is declared, or knows none of the classes
                although its head was asked for.
            RecipeError: the recipe does not fit the network.
            EngineError: the export does not say what the network says.
            DatasetError: too few images can be read.
        """
        opened, match, drawn, proof, tries = self._open(dataset, progress)
        network, groups = opened.network, opened.groups
        assert isinstance(network, OnnxNetwork)
        asked = self.recipe or measured_recipe(network, drawn)
        recipe, projection = fitted_projection(network, asked, dataset, progress)
        progress("export", 0, 1)
        images = network.probe(PROVEN)
        if drawn.positions:
            some = drawn.positions[:PROVEN]
            images = np.stack([drawn.read(position, network.preprocess.geometry) for position in some])
        chosen = groups if match is not None else None
        engine = export_encoder(
            network, recipe, folder / ENCODER, images, projection, head=match is not None, groups=chosen
        )
        progress("export", 1, 1)
        info = NetworkInfo(
            name=shown_name(self.name),
            sha256=network.graph.weights_sha256,
            all_classes=None if chosen is None else network.classes,
            groups=None if chosen is None else tuple(tuple(group) for group in chosen),
            matched="" if match is None else match.how,
        )
        wants_linear = match is None and self._wants_linear(dataset)
        features = features_id(network, recipe, projection)
        return PreparedEncoder(
            engine,
            info,
            recipe,
            network.preprocess,
            opened.classes,
            proof=proof,
            features=features,
            logits_from=encoder_id_of(encoder_files(folder), network.preprocess.geometry) if engine.classes else "",
            wants_linear=wants_linear,
            tried=frozenset() if tries is None else tries.tried,
            ahead=frozenset() if tries is None else tries.ahead(features),
        )

    def open(self, dataset: Dataset, progress: Progress) -> OpenNetwork:
        """The network, with preprocessing that was measured.

        Raises:
            NetworkError, DatasetError: as for ``prepare``.
        """
        return self._open(dataset, progress).network

    def _wants_linear(self, dataset: Dataset) -> bool:
        """Whether the dataset's images get a linear head."""
        return self.head == "linear" or (self.head == "auto" and why_no_linear_head(dataset.labels) is None)

    def _open(self, dataset: Dataset, progress: Progress) -> _Opened:
        if self.head == "linear":
            need_linear_head(dataset.labels)
        network = open_network(self.name, self.preprocess)
        assert isinstance(network, OnnxNetwork)
        # Where all was taught, that is what there is to measure on.
        own = np.flatnonzero(dataset.labels < (len(dataset.own_classes) or len(dataset.classes)))
        match = self._match(dataset, network)
        if match is not None and match.how == "order" and not _knows(network, dataset, own, match):
            self._without_head(dataset, network)
            match = None
        known = own if match is None else own[np.isin(dataset.labels[own], match.known)]
        network, drawn, proof, tries = self._measured(network, match, dataset, known, progress)
        classes, groups = _chosen(dataset.own_classes, match)
        is_whole = groups == [(i,) for i in range(len(network.classes or ()))]
        opened = OpenNetwork(network, classes, None if is_whole and groups else groups)
        return _Opened(opened, match, drawn, proof, tries)

    def _match(self, dataset: Dataset, network: OnnxNetwork) -> ClassMatch | None:
        if self.head in ("linear", "none") or not dataset.own_classes:
            return None
        class_map = None if self.class_map is None else read_class_map(self.class_map)
        match = match_classes(dataset.own_classes, network.classes, class_map)
        if match is None or (len(match.known) < FEWEST_KNOWN and self.head == "auto"):
            self._without_head(dataset, network)
            return None
        unknown = [name for name, group in zip(dataset.own_classes, match.groups, strict=True) if not group]
        if unknown:
            log.warning(
                "%s does not know %s: those are known to the cache alone; --class-map FILE says which of its classes "
                "they are",
                network.name,
                _few(unknown),
            )
        return match

    def _without_head(self, dataset: Dataset, network: OnnxNetwork) -> None:
        """Say that there is no opinion of the network.

        Raises:
            NetworkError: it was asked for.
        """
        if network.classes is None:
            said = f"{network.name} is a backbone, it has no head"
        else:
            said = (
                f"{network.name} knows {_few(network.classes)}, and does not know {dataset.name}'s classes "
                f"{_few(dataset.own_classes)}"
            )
        if self.head == "network":
            more = "" if network.classes is None else "give --class-map FILE, or "
            raise NetworkError(f"{said}: {more}leave out --head network")
        if (why := why_no_linear_head(dataset.labels)) is None:
            log.warning(
                "%s: a linear head is fitted to the images (--class-map FILE says which classes are which)", said
            )
        else:
            log.warning("%s: the cache answers alone, as %s (--class-map FILE says which classes are which)", said, why)

    def _measured(
        self,
        network: OnnxNetwork,
        match: ClassMatch | None,
        dataset: Dataset,
        usable: NDArray[np.int64],
        progress: Progress,
    ) -> tuple[OnnxNetwork, Drawn, PreprocessProof | None, KeptTries | None]:
        """The network with the preprocessing that labelled images speak for, and those; without any, as it is."""
        declared = network.preprocess
        drawn = draw(dataset, usable, MEASURED, declared.geometry)
        if not drawn.positions and dataset.own_classes:
            raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images: {dataset.left_out.said()}")
        if len(drawn.positions) < 2:  # one has no other to be compared with
            return network, drawn, None, None
        # Nothing depends on the geometry where no logits are used, unless the user gave it.
        choice = Choice(may_mirror=self.may_mirror) if match is None and self.preprocess is None else None
        if choice is not None and self.root is not None:
            before = proof_before(self.root, network, drawn, may_mirror=self.may_mirror)
            if before is not None:
                return network.taking(before.taken), drawn, before, None
        tries = None if self.root is None else KeptTries(self.root, dataset, _run)
        see = see_all if tries is None else _seen(tries)
        try:
            images = drawn.positions, drawn.labels
            proof = measure(network, drawn.read, *images, match, progress, choice=choice, see=see)
        finally:
            if tries is not None:
                tries.close()
        if refusal := proof.refusal(self.name):
            raise NetworkError(refusal)
        network = network.taking(proof.taken)
        if declared.is_certain and proof.answer == "beaten":
            log.warning("%s", proof.said())
        if not declared.is_declared:
            log.warning(
                "%s says nowhere how it takes pixels: %s is taken (%s)",
                self.name,
                network.preprocess.arithmetic,
                network.preprocess.read_from or "most networks take that",
            )
        if proof.choice is not None:
            log.warning("geometry: %s", proof.choice_said())
        if proof.suggestion is not None:
            log.warning(
                "geometry: %s does clearly better on %d images than %s; --preprocess FILE.json may say it",
                proof.suggestion.preprocess.geometry,
                proof.images,
                declared.geometry,
            )
        return network, drawn, proof, tries


def measured_recipe(network: Network, drawn: Drawn) -> Recipe:
    """The input of the head, pooled as labelled images say where there is more than one way."""
    recipe = default_recipe(network)
    if recipe.pool != ("cls",) or not drawn.positions:
        return recipe
    positions = list(drawn.positions[:POOLED])
    images = np.stack([drawn.read(position, network.preprocess.geometry) for position in positions])
    choice = best_pool(network, images, drawn.dataset.labels[positions])
    log.info("%s is pooled by %s: leave-one-out NLL %s", network.default_layer, choice.pool, choice.nll)
    return replace(recipe, pool=(choice.pool,))


def fitted_projection(
    network: Network, recipe: Recipe, dataset: Dataset, progress: Progress
) -> tuple[Recipe, Floats | None]:
    """What reduces keys, fitted on some of the dataset's images outside the holdout; None where the recipe reduces not.

    Where there are fewer of them than the numbers that keys are to be reduced to, keys get as many numbers as images,
    which is said, and is in the recipe.

    Raises:
        RecipeError: the recipe does not fit the network.
        DatasetError: no such image can be read.
    """
    layers = network.layers()
    check_recipe(recipe, layers, network.name)
    if recipe.reduce is None:
        return recipe, None
    candidates = np.setdiff1d(np.arange(len(dataset.labels)), dataset.holdout())
    sample = np.sort(np.random.default_rng(0).permutation(candidates)[:PROJECTION_IMAGES])
    covariance: Covariance | None = None
    done = 0
    for indices, images in batches(dataset, sample, network.preprocess.geometry, BATCH):
        features = keys_of(network.activations(images, recipe.all_layers).seen, layers, recipe.unreduced)
        covariance = covariance or Covariance(features.shape[1])
        covariance.add(features)
        done += len(indices)
        progress("reduce", done, len(sample))
    if covariance is None:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has too few images to fit a reduction of keys on")
    if recipe.reduce > done:
        log.warning(
            "keys are reduced to %d numbers, not to %d: there are only so many images to fit the reduction on",
            done,
            recipe.reduce,
        )
        recipe = replace(recipe, reduce=done)
    assert recipe.reduce is not None
    return recipe, covariance.projection(recipe.reduce).astype(np.float32)


def shown_name(name: str) -> str:
    """A network's name without the folders of this machine."""
    source, at, weights = name.partition("@")
    scheme, colon, rest = source.partition(":")
    shown = source if colon and not Path(rest).is_absolute() and "/" not in scheme else Path(source).name
    return shown + (f"@{Path(weights).name}" if at else "")


def _knows(network: OnnxNetwork, dataset: Dataset, usable: NDArray[np.int64], match: ClassMatch) -> bool:
    """Whether a network without class names takes the dataset's for its own, in their order.

    Its probabilities of the right classes have to be clearly better than guesses by how frequent each is.
    """
    drawn = draw(dataset, usable, MEASURED, network.preprocess.geometry)
    if not drawn.positions:
        return False
    labels = drawn.labels
    images = np.stack([drawn.decoded[position] for position in drawn.positions])
    own = losses(network, images, labels, match)
    share = np.bincount(labels) / len(labels)
    gain = -np.log(share[labels]) - own
    return bool(gain.mean() > 3 * gain.std() / np.sqrt(len(gain)))


def _run(network: OnnxNetwork, images: NDArray[np.uint8]) -> Encoding:
    return given(network, images, default_recipe(network))


def _seen(tries: KeptTries) -> See:
    def see(network: OnnxNetwork, numbers: Sequence[int], decode: Decode, *, keys_alone: bool) -> Seen:
        return seen_in(tries.see(network, numbers, decode, keys_alone=keys_alone))

    return see


def _chosen(own: tuple[str, ...], match: ClassMatch | None) -> tuple[tuple[str, ...], Groups]:
    """A dataset's classes, those that the network knows first, and for each of those what the network calls it."""
    if match is None:
        return own, []
    known = match.known
    others = [label for label in range(len(own)) if label not in known]
    return tuple(own[label] for label in (*known, *others)), [match.groups[label] for label in known]


def _few(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names):,} in all)" if len(names) > 3 else "")
