"""What the calls answer beside predictions (``model.answering.told``), as OpenAPI shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from secondlook.curation.class_report import BundleReport, percent
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.journal import number_in
from secondlook.model.manifest import (
    ApproximationError,
    Calibration,
    DatasetInfo,
    HeadKind,
    HoldoutInfo,
    Manifest,
    NetworkInfo,
    ParametersFrom,
    StoreInfo,
)
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.proof import PreprocessProof
from secondlook.model.stores.added_keys import number_of
from secondlook.service.prefix import link

SUGGEST_REBUILD = 5_000
"""Entries that differ from their generation (taught, relabelled or removed), from which on a rebuild is suggested."""
SUGGEST_HEAD = 5
"""Images of each of two classes, where all was taught, from which on a rebuild is suggested for the sake of a head."""


class TaughtInfo(BaseModel):
    """How what answers differs from its generation, by what was taught."""

    images: int = Field(description="Taught images that the generation does not have itself.")
    relabelled: int = Field(description="Its own entries that have another label now.")
    removed: int = Field(description="Its own entries that are removed.")
    change: int = Field(description="The newest change that it answers with.")
    suggests_rebuild: bool = Field(
        description="Whether there is so much of it that a rebuild should fold it in, or enough for a first head."
    )


class ModelInfo(BaseModel):
    """The bundle that answers."""

    generation: str
    created: str
    classes: list[str] = Field(description="Those that the network knows, then the others.")
    network_classes: int = Field(description="How many of them the network knows; it gives the others 0.")
    few_classes: list[str] = Field(
        description="Those among these that a linear head gives next to nothing too, as there were too few images of "
        "them to fit it on: the cache alone answers with them, until a rebuild finds more."
    )
    dataset_classes: int = Field(
        description="How many of them, the first ones, the dataset has; the others were taught."
    )
    head: HeadKind = Field(
        description="What gives the network's probabilities: its own head, a linear one that was fitted for the "
        "bundle, or nothing; then the cache answers alone, and `lam` is 1."
    )
    theta: float
    lam: float
    k: int | None = Field(description="null = all entries vote.")
    entries: int
    counts: list[int] = Field(description="Entries of each class.")
    class_weights: list[float] = Field(
        description="How much an entry of each class counts in the vote: 1, and more for those that were taught."
    )
    taught: TaughtInfo
    dataset: DatasetInfo
    network: NetworkInfo
    preprocess: Preprocess = Field(description="How an image becomes the network's input.")
    proof: PreprocessProof | None = Field(
        description="What labelled images said of it when it was indexed; null where that was not measured."
    )
    store: StoreInfo
    engine: str = Field(description="What runs the encoder, and in which precision.")
    engine_why: str = Field(description="Why that one; empty on a GPU.")
    parameters_from: ParametersFrom = Field(
        description="`holdout`: theta, lam and k were fitted on images that the network never saw and the cache does "
        "not hold; `leave-one-out`: there were none, theta and k are by the cache alone, lam is a cautious half; "
        "`given`."
    )
    holdout: HoldoutInfo | None = Field(description="What they were fitted on; null where they were given.")
    calibration: Calibration | None = Field(description="Made anew while it is taught; null = doubt is not calibrated.")
    truncation: ApproximationError | None = Field(
        description="How far answers are from the exact sum over all entries; null where that was not measured."
    )
    teachable: bool = Field(description="Whether images can be taught to it now, by whoever has an admin key.")
    why_not_teachable: str | None = Field(description="Why not, in a sentence; null where they can.")


class Taken(BaseModel):
    """What some images of a class were taken for."""

    label: str
    count: int


class ClassInfo(BaseModel):
    """How well one class is told."""

    label: str
    images: int = Field(description="Entries of it, taught ones included.")
    asked: int = Field(description="How many of its images were asked about; 0 where no honest answers are known.")
    right: int = Field(description="How many of those were answered right.")
    right_percent: tuple[float, float, float] | None = Field(
        description="That in percent, and its 95 % interval; null where none were asked about."
    )
    taken_for: list[Taken] = Field(description="What the others were taken for, most often first.")


class ReportInfo(BaseModel):
    """How well each class is told, by what the bundle was fitted on."""

    generation: str
    asked: int
    right: int
    right_percent: tuple[float, float, float] | None
    how: str = Field(description="How that is known, or why it is not, in a sentence.")
    classes: list[ClassInfo]
    left_out: dict[str, int] = Field(description="Images that could not be used, by reason.")
    copies: int = Field(description="Images that show a picture that another one shows too.")
    in_two_classes: list[tuple[str, str]] = Field(description="Some of those that lie in two classes.")
    next: list[str] = Field(description="What to do next, in sentences, the most useful first.")


class EntryInfo(BaseModel):
    """One cached entry."""

    generation: str
    id: int
    label: str
    index: int
    source: str
    mirrored: bool
    thumbnail: str | None = Field(description="Where its thumbnail is; null where the bundle has none.")
    taught: bool = Field(description="Whether its image was taught, and does not come from a dataset.")
    was: str | None = Field(description="Its label in the generation, where it has another one now.")


class EntryList(BaseModel):
    """Some entries, in the order of their ids."""

    generation: str
    total: int = Field(description="How many there are of what was asked for.")
    entries: list[EntryInfo]
    next: int | None = Field(description="Give it as `after` for those that follow; null where these are the last.")


class GenerationInfo(BaseModel):
    """One bundle of those that can be activated."""

    id: str
    is_active: bool
    is_readable: bool = Field(description="False where its manifest is damaged or from another version.")
    created: str | None = None
    dataset: str | None = None
    classes: int | None = None
    entries: int | None = None


class Health(BaseModel):
    """Whether the server lives, or is ready."""

    status: str
    generation: str


def model_info(predictor: Predictor, why_not_teachable: str | None) -> ModelInfo:
    """What the active bundle's manifest says, and what was taught since."""
    manifest, by_class = predictor.bundle.manifest, predictor.overlay.class_weights
    return ModelInfo(
        generation=manifest.generation,
        created=manifest.created,
        classes=list(predictor.classes),
        network_classes=len(manifest.network_classes),
        few_classes=[manifest.classes[place] for place in (manifest.linear.few if manifest.linear else ())],
        dataset_classes=len(manifest.dataset_classes),
        head=manifest.head,
        theta=manifest.theta,
        lam=manifest.lam,
        k=manifest.k,
        entries=predictor.store.count,
        counts=predictor.overlay.counts.tolist(),
        class_weights=[1.0] * len(predictor.classes) if by_class is None else by_class.tolist(),
        taught=taught_info(predictor),
        dataset=manifest.dataset,
        network=manifest.network,
        preprocess=manifest.preprocess,
        proof=manifest.proof,
        store=manifest.store,
        engine=predictor.bundle.engine.name,
        engine_why=predictor.bundle.engine_why,
        calibration=predictor.bundle.calibrated.calibration,
        parameters_from=manifest.parameters_from,
        holdout=manifest.holdout,
        truncation=manifest.approximation_error,
        teachable=why_not_teachable is None,
        why_not_teachable=why_not_teachable,
    )


def report_info(predictor: Predictor) -> ReportInfo:
    """How well what answers tells each class."""
    counts = dict(zip(predictor.classes, predictor.overlay.counts.tolist(), strict=True))
    report, of = BundleReport.of(predictor.bundle.manifest, counts), predictor.bundle.manifest.dataset
    return ReportInfo(
        generation=predictor.bundle.manifest.generation,
        asked=report.asked,
        right=report.answered,
        right_percent=percent(report.right),
        how=report.how(),
        classes=[
            ClassInfo(
                label=one.label,
                images=one.photos,
                asked=one.asked,
                right=one.answered,
                right_percent=percent(one.right),
                taken_for=[Taken(label=label, count=count) for label, count in one.confused],
            )
            for one in report.classes
        ],
        left_out=dict(report.left_out),
        copies=of.duplicates,
        in_two_classes=[*of.in_two_classes],
        next=[*report.advice()],
    )


def taught_info(predictor: Predictor) -> TaughtInfo:
    """How an overlay differs from its generation."""
    overlay, manifest = predictor.overlay, predictor.bundle.manifest
    wants_head = manifest.is_taught_alone and not manifest.has_head and (overlay.counts >= SUGGEST_HEAD).sum() > 1
    is_much = overlay.added.images + len(overlay.corrections) >= SUGGEST_REBUILD
    return TaughtInfo(
        images=overlay.added.images,
        relabelled=overlay.relabelled,
        removed=overlay.removed,
        change=overlay.change,
        suggests_rebuild=is_much or (wants_head and overlay.added.images > 0),
    )


def thumbnail_of(entry: Entry) -> str | None:
    """Where an entry's picture is."""
    has_picture = entry.sheet is not None or number_of(entry.id) is not None
    return link(f"/v1/entries/{entry.id}/thumbnail") if has_picture else None


def entry_info(predictor: Predictor, entry: Entry) -> EntryInfo:
    """One entry, as it votes now."""
    manifest = predictor.bundle.manifest
    was = None
    if (
        predictor.overlay.corrections.get(entry.id) is not None
        and (own := predictor.bundle.entries.get(entry.id)) is not None
    ):
        was = manifest.classes[own.value]
    return EntryInfo(
        generation=manifest.generation,
        id=entry.id,
        label=predictor.classes[entry.value],
        index=entry.value,
        source=entry.source,
        mirrored=entry.mirrored,
        thumbnail=thumbnail_of(entry),
        taught=number_in(entry.source) is not None,
        was=was,
    )


def generation_info(generation: str, manifest: Manifest | None, active: str) -> GenerationInfo:
    """One line of the list of generations."""
    if manifest is None:
        return GenerationInfo(id=generation, is_active=generation == active, is_readable=False)
    return GenerationInfo(
        id=generation,
        is_active=generation == active,
        is_readable=True,
        created=manifest.created,
        dataset=manifest.dataset.name,
        classes=len(manifest.classes),
        entries=manifest.store.count,
    )
