"""What a bundle says of itself: the contents of its manifest.json."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from secondlook.model.cache import Ints, new_classes
from secondlook.model.fit_report import ClassFigures as ClassFigures
from secondlook.model.fit_report import FitReport as FitReport
from secondlook.model.fit_report import HoldoutInfo as HoldoutInfo
from secondlook.model.fit_report import LinearHead as LinearHead
from secondlook.model.fit_report import Part
from secondlook.model.fit_report import ProvenEngine as ProvenEngine
from secondlook.model.fit_report import TriedStrength as TriedStrength
from secondlook.model.networks.preprocess import CIFAR, Preprocess
from secondlook.model.networks.proof import PreprocessProof
from secondlook.model.networks.recipe import Recipe

READ_VERSIONS = (2, 3)
"""Older ones are read, and written anew by the next rebuild or fit."""
MANIFEST = "manifest.json"
GENERATION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
"""A generation's id: when it was made, in UTC, so that ids sort by time; and four digits by chance."""


Standing = Literal["known", "doubtful", "unknown"]
"""How far to trust an answer, in one word (``model.answering.doubt``)."""
ParametersFrom = Literal["holdout", "cross-validation", "leave-one-out", "given"]
HeadKind = Literal["network", "linear", "none"]
"""Whose opinion the cache is mixed with: the network's own head's, that of a linear one made of the keys, nobody's."""
Trained = Literal["yes", "no", "unknown"]


class DatasetInfo(Part):
    """Which images are cached."""

    name: str
    split: str
    images: int
    """Images embedded; with mirrored copies there are twice as many entries."""
    mirrored: bool
    unreadable: tuple[str, ...] = ()
    """Sources of the images that could not be decoded and are not cached."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """How many files were left out of the dataset, by reason: these images, and all that is no image."""
    duplicates: int = 0
    """Cached images that show the same picture as another one, encoded or scaled anew or not."""
    in_two_classes: tuple[tuple[str, str], ...] = ()
    """Sources of some pictures that are in two classes."""
    in_two_classes_count: int = 0
    classes: int | None = Field(None, ge=0)
    """How many of the bundle's classes, the first ones, are the dataset's own; None = all. The others were taught."""
    sha256: str


class NetworkInfo(Part):
    """Which network is inside the encoder."""

    name: str
    """As it was given."""
    sha256: str
    """Of its weights, or of the file that has them."""
    trained_on: str = ""
    """For people."""
    trained_on_these: Trained = "unknown"
    """Whether it was trained on cached images."""
    classes: int | None = Field(None, ge=0)
    """How many of the bundle's classes it knows, the first ones; None = all, 0 = it has no head. The others are known
    to the cache alone."""
    all_classes: tuple[str, ...] | None = None
    """Names of all its classes, where those of the bundle are some of them, or several together."""
    groups: tuple[tuple[int, ...], ...] | None = None
    """For each of the bundle's classes that it knows, which of ``all_classes`` mean it."""
    matched: str = ""
    """How: ``exact``, ``folded`` or ``class map``."""
    bfloat16: bool = False
    """Whether a GPU runs it in bfloat16: decided where it was indexed on one, by the answers on the holdout."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, content: Any) -> Any:
        """What was written when all networks were of one family."""
        if not isinstance(content, dict) or "arch" not in content:
            return content
        return {"name": content["arch"]} | {key: content[key] for key in content if key not in ("arch", "variant")}

    @model_validator(mode="after")
    def _groups_of_what_it_knows(self) -> Self:
        known = len(self.all_classes or ())
        if (self.groups is None) != (self.all_classes is None) or any(
            not group or not 0 <= min(group) <= max(group) < known for group in self.groups or ()
        ):
            raise ValueError("groups are of all_classes")
        return self


class EarlyExit(Part):
    """A first, cheaper search, after which an answer that is sure enough is given."""

    lists: int | None = Field(None, ge=1)
    candidates: int | None = Field(None, ge=1)
    k: int = Field(ge=1)
    """Neighbours that vote in it."""
    margin: float = Field(ge=0, le=1)
    """By how much the mixture's first class must lead its second for the answer to be sure."""


class SearchInfo(Part):
    """How much of an approximate store a search looks at; nothing to say for a store that looks at every entry."""

    lists: int | None = Field(None, ge=1)
    """Lists visited in an IVF (FAISS's nprobe)."""
    candidates: int | None = Field(None, ge=1)
    """Candidates kept on the way through an HNSW graph (FAISS's efSearch), and k at least."""
    early_exit: EarlyExit | None = Field(None, alias="quick")
    """A search to try first (``model.answering.early_exit``), fitted to the bundle's own theta, lam and k."""


class StoreInfo(Part):
    """How the keys are kept."""

    kind: Literal["faiss", "milvus"]
    factory: str
    collection: str | None = None
    """The keys' collection, where they are in Milvus."""
    dim: int
    count: int
    search: SearchInfo = SearchInfo()
    why: str = ""
    """Why this store, where it was chosen by count and size."""


class ApproximationError(Part):
    """How far answers are from those of the exact sum over all entries' unquantised keys, on the holdout.

    Total variation is half the sum of the absolute differences of the mixed probabilities: 0 = the same, 1 = disjoint.
    """

    images: int
    keys: Literal["exact", "stored"]
    """Which keys the exact sum ran over: as embedded, or (after ``fit`` on an existing bundle) as the store keeps them.
    """
    mean: float
    p99: float
    max: float
    changed_top1_percent: float


class Surplus(Part):
    """How much more energy than RMDS bears out speaks against an image's being known (``answering.doubt``)."""

    energy: float = Field(gt=0)
    rmds: float = Field(gt=0)
    over: float
    """What is left of the two, weighed, up to which nothing speaks against it."""


class Evidence(Part):
    """What speaks for an image's being known: a weighted sum of scores, less a surplus (``answering.doubt``)."""

    softmax: float = Field(0.0, ge=0)
    energy: float = Field(0.0, ge=0)
    rmds: float = Field(0.0, ge=0)
    similarity: float = Field(0.0, ge=0)
    """Of the nearest entry, or of the one that ``Novelty.neighbor`` says."""
    surplus: Surplus | None = None
    """None where none is taken off, and in bundles from before it."""
    limit: float
    """Images with less of it are novel."""
    doubtful: float | None = None
    """Images with less of it are doubtful; None in bundles from before there was such a limit."""

    @property
    def goes_by_rmds(self) -> bool:
        """Whether RMDS is part of it."""
        return self.rmds > 0 or self.surplus is not None


class NoveltyCandidate(Part):
    """One way to tell unknown images that was tried, and how well it did."""

    score: str
    weights: dict[str, float]
    """Of each score, in the holdout's standard deviations; of ``surplus``, how much of it is taken off."""
    auroc: dict[str, float]
    """How often, in percent, an image of each kind of unknown ones is told from a known one."""
    lost: float
    """By how many points at most the best candidate for a kind is better."""


class Novelty(Part):
    """When an image is unlike anything cached: its score (``model.answering.doubt``) is above the threshold.

    Without evidence (bundles from before it) the score is 1 - similarity of its neighbor-th entry.
    """

    neighbor: int = Field(ge=1)
    threshold: float
    false_alarm_rate: float
    """Share of holdout images above the threshold."""
    evidence: Evidence | None = None
    of_added: Evidence | None = Field(None, alias="of_taught")
    """By the nearest entry alone: for images answered with a class that the network does not know."""
    score: str = ""
    """The candidate that was chosen."""
    candidates: tuple[NoveltyCandidate, ...] = ()
    blind_to: tuple[str, ...] = ()
    """Kinds of unknown images that it tells from known ones no better than chance would."""


class Ranked(Part):
    """How little the holdout's own labels suited its images (0 = well), sorted: the scores at some of the ranks."""

    images: int = Field(ge=1)
    ranks: tuple[int, ...]
    """Ascending; 1 is the lowest score's, ``images`` the highest's. Of equal scores, the last one's."""
    scores: tuple[float, ...]


class SameAs(Part):
    """The greatest similarity of a holdout image to another picture: an entry nearer than that is the same picture."""

    exact: float
    """Of keys as the encoder gives them: those of taught images."""
    stored: float
    """Of keys as the store keeps them."""
    images: int
    """Of the holdout; where those are few, and cached ones that were asked of each other."""


class Calibration(Part):
    """What was calibrated on the holdout."""

    novelty: Novelty
    ece_percent_network: float | None
    """None where the network has no head."""
    ece_percent_mixed: float
    sets: Ranked | None = None
    """By 1 - the mixture's probability of the label: for prediction sets."""
    credibility: Ranked | None = None
    """By 1 - the label's share of the cache's vote: for the credibility of answers."""
    standing: dict[Standing, float] | None = None
    """Percent of the holdout's images that are of each standing."""


class FileInfo(Part):
    """One file of the bundle."""

    size: int
    sha256: str


class Manifest(Part):
    """A bundle's manifest."""

    schema_version: Literal[3] = 3
    generation: str
    created: str
    secondlook_version: str
    dataset: DatasetInfo
    classes: tuple[str, ...]
    """None where nothing is cached yet."""
    network: NetworkInfo
    head: HeadKind = "network"
    linear: LinearHead | None = None
    """How a linear head was made; None where there is none."""
    recipe: Recipe
    preprocess: Preprocess
    proof: PreprocessProof | None = None
    """What labelled images said of it when it was indexed; None where that was not measured."""
    store: StoreInfo
    theta: float = Field(gt=0)
    lam: float = Field(ge=0, le=1)
    k: int | None = Field(ge=1)
    parameters_from: ParametersFrom
    holdout: HoldoutInfo | None = None
    fit: FitReport | None = None
    calibration: Calibration | None = None
    same_as: SameAs | None = None
    approximation_error: ApproximationError | None = Field(None, alias="truncation")
    folded_change: int | None = Field(None, alias="taught")
    """The newest change of the root's journal that was folded in; None = it was left out, or there was none."""
    engines: tuple[ProvenEngine, ...] = ()
    """Those of reduced precision that were tried; float32 needs no proof."""
    features: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """What keys depend on, whatever the head is: the name of the root's folder of what was embedded before; None in
    bundles from before there was one, and where keys are not kept."""
    files: dict[str, FileInfo] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, content: Any) -> Any:
        """A manifest of version 2 says not where its parameters are from; older ones say only the size of images."""
        if not isinstance(content, dict):
            return content
        content = _with_dataset_classes(_with_preprocess(content))
        if content.get("schema_version") != 2:
            return content
        added: dict[str, Any] = {"schema_version": 3, "parameters_from": "given"}
        with suppress(KeyError, TypeError):  # what is amiss is said by those that know the fields
            if content.get("fit"):
                dataset, network = content["dataset"], content["network"]
                is_honest = network["trained_on"] == f"{dataset['name']} {dataset['split']} less holdout"
                added["parameters_from"] = "holdout"
                added["holdout"] = {
                    "name": f"a tenth of {dataset['name']} {dataset['split']}",
                    "images": content["fit"]["images"],
                    "honest": True if is_honest else None,
                    "why": "the network was trained on the others" if is_honest else "",
                }
        return content | added

    @model_validator(mode="after")
    def _head_and_classes_agree(self) -> Self:
        """Without a head there are neither classes that the network knows nor a network to mix with."""
        if self.has_head != (self.network.classes != 0):
            raise ValueError(f"head is {self.head!r} and the network knows {self.network.classes} classes")
        if (self.linear is not None) != (self.head == "linear"):
            said = "nothing" if self.linear is None else "something"
            raise ValueError(f"head is {self.head!r}, and {said} is said of a linear one")
        if self.linear is not None and not set(self.linear.few) <= set(range(len(self.network_classes))):
            raise ValueError("few are no classes of the head's")
        if not self.has_head and self.lam != 1:
            raise ValueError(f"lam is {self.lam:g}, and must be 1 where the network has no head")
        if (not self.classes) != (not self.store.count):
            raise ValueError(f"there are {len(self.classes):,} classes of {self.store.count:,} entries")
        return self

    @property
    def has_head(self) -> bool:
        """Whether the network says anything; else the cache answers alone."""
        return self.head != "none"

    @property
    def network_classes(self) -> tuple[str, ...]:
        """The classes that the network knows; none without a head."""
        return self.classes[: self.network.classes]

    def new_classes(self, classes: int) -> Ints:
        """Those of so many classes, the bundle's and what was taught since, that its network does not know."""
        return new_classes(len(self.network_classes), classes, () if self.linear is None else self.linear.few)

    @property
    def dataset_classes(self) -> tuple[str, ...]:
        """The dataset's own; the others were taught."""
        return self.classes[: self.dataset.classes]

    @property
    def is_taught_alone(self) -> bool:
        """Whether nothing is from a dataset: all that is cached, if anything is, was taught."""
        return not self.dataset_classes

    @property
    def equal_classes(self) -> int:
        """How many of the classes, the first ones, count alike in the vote; others are small as few images were taught.

        They are those that the network knows, and without a head of its own the dataset's own.
        """
        return len(self.network_classes if self.head == "network" else self.dataset_classes)


def _with_dataset_classes(content: dict[str, Any]) -> dict[str, Any]:
    """Classes that the network did not know were taught, where nothing is said of the dataset's own."""
    dataset, network = content.get("dataset"), content.get("network")
    if not isinstance(dataset, dict) or not isinstance(network, dict) or "classes" in dataset:
        return content
    return content | {"dataset": dataset | {"classes": network.get("classes")}}


def _with_preprocess(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest from before there was any network but those of the CIFAR family, which all took images in one way."""
    match content:
        case {"preprocess": _}:
            return content
        case {"input": {"height": height, "width": width, "resize": "cover-bicubic"}}:
            geometry = asdict(CIFAR.geometry) | {"height": height, "width": width}
            others = {name: value for name, value in content.items() if name != "input"}
            return others | {"preprocess": CIFAR.model_dump() | {"geometry": geometry}}
        case _:
            return content
