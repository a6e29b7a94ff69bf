"""What the calls answer, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated, NamedTuple, NotRequired

from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.journal import number_in
from secondlook.model.manifest import (
    ApproximationError,
    Calibration,
    DatasetInfo,
    HoldoutInfo,
    InputInfo,
    Manifest,
    NetworkInfo,
    ParametersFrom,
    Standing,
    StoreInfo,
)
from secondlook.service.problems import Problem
from secondlook.service.reasons import (
    Decisive,
    Neighbor,
    Votes,
    decisive_of,
    neighbors_of,
    thumbnail_of,
    votes_of,
)


class ClassScore(TypedDict):
    """One class's probability: mixed, and what network and cache say."""

    label: str
    index: int
    probability: float
    network: float
    cache: Annotated[float | None, Field(description="null where no entry voted.")]


class Opinion(TypedDict):
    """The most probable class by network or cache alone."""

    label: str
    probability: float


class NoveltyScore(TypedDict):
    """How unlike the cached images the image is."""

    score: Annotated[
        float,
        Field(
            description="0 to 1, by what was chosen for the model (`calibration.novelty.score`); where that has no "
            "evidence, 1 - similarity of an entry, 0 to 2."
        ),
    ]
    is_novel: Annotated[
        bool | None, Field(description="Whether that is above the calibrated threshold; null without one.")
    ]


class Prediction(TypedDict):
    """What one image shows."""

    filename: str | None
    label: str
    index: int
    probability: float
    standing: Annotated[
        Standing | None,
        Field(
            description="How far to trust the label: unknown where the image is novel; doubtful where it nearly is, "
            "where its neighbours hardly bear the label out (credibility), or where the set of 95 % has other than one "
            "label. null without a calibration."
        ),
    ]
    top: list[ClassScore]
    network: Opinion
    cache: Annotated[
        Opinion | None,
        Field(
            description="null where no entry voted: the cache has none, or it cannot be asked now. Then the network "
            "answers alone."
        ),
    ]
    novelty: Annotated[NoveltyScore | None, Field(description="null where the cache cannot be asked now.")]
    credibility: Annotated[
        float | None,
        Field(
            description="How well its neighbours bear the label out: among which share of known images the right one "
            "had no greater share of the vote. null without a calibration, or with another theta or k."
        ),
    ]
    same_as: Annotated[
        int | None,
        Field(
            description="Id of the entry that is the same picture, nearer than any held-out image ever was to another: "
            "its label decides, with a probability of 1. null where none is, and wherever lam, theta or k is given."
        ),
    ]
    neighbors: list[Neighbor]
    decisive: NotRequired[
        Annotated[
            Decisive | None,
            Field(
                description="With `neighbors`. null where all those listed could be missing and the answer be the same."
            ),
        ]
    ]
    votes: NotRequired[Annotated[Votes, Field(description="With `votes`.")]]
    prediction_set: NotRequired[
        Annotated[
            list[str] | None,
            Field(
                description="With `coverage`: classes, the most probable first, that hold the right one so often; none "
                "where no class is probable enough. null without a calibration, or with another theta, lam or k."
            ),
        ]
    ]
    abstained: NotRequired[
        Annotated[
            bool | None,
            Field(
                description="With `abstain`: whether to say 'unknown' instead, as the image is novel. null where the "
                "cache cannot be asked now."
            ),
        ]
    ]


class Predictions(TypedDict):
    """What a request's images show, in the order sent; an image that failed has a problem document in its place."""

    generation: str
    lam: float
    theta: float
    k: Annotated[int | None, Field(description="null = all entries vote.")]
    predictions: list[Prediction | Problem]


# Dictionaries, written by pydantic as they are: models would be validated, and they are ours.
PREDICTION: TypeAdapter[Prediction | Problem] = TypeAdapter(Prediction | Problem)


SUGGEST_REBUILD = 5_000
"""Entries that differ from their generation (taught, relabelled or removed), from which on a rebuild is suggested."""


class TaughtInfo(BaseModel):
    """How what answers differs from its generation, by what was taught."""

    images: int = Field(description="Taught images that the generation does not have itself.")
    relabelled: int = Field(description="Its own entries that have another label now.")
    removed: int = Field(description="Its own entries that are removed.")
    change: int = Field(description="The newest change that it answers with.")
    suggests_rebuild: bool = Field(description="Whether there is so much of it that a rebuild should fold it in.")


class ModelInfo(BaseModel):
    """The bundle that answers."""

    generation: str
    created: str
    classes: list[str] = Field(description="Those that the network knows, then those that were taught.")
    network_classes: int = Field(description="How many of them the network knows; it gives the others 0.")
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
    input: InputInfo
    store: StoreInfo
    engine: str
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


class Wanted(NamedTuple):
    """How much of an answer is told."""

    top: int
    """Classes."""
    neighbors: int = 0
    votes: int = 0
    coverage: float | None = None
    abstain: bool = False


def prediction(
    predictor: Predictor, answer: Answer, parameters: Parameters, filename: str | None, wanted: Wanted
) -> Prediction:
    """One image's answer, which was given under these parameters."""
    classes = predictor.classes
    order = (-answer.mixed).argsort(kind="stable")[: wanted.top]
    listed: list[ClassScore] = [
        {
            "label": classes[i],
            "index": int(i),
            "probability": float(answer.mixed[i]),
            "network": float(answer.network[i]),
            "cache": float(answer.cache[i]) if answer.has_cache else None,
        }
        for i in order
    ]
    by_network, by_cache = int(answer.network.argmax()), int(answer.cache.argmax())
    first = listed[0]
    told: Prediction = {
        "filename": filename,
        "label": first["label"],
        "index": first["index"],
        "probability": first["probability"],
        "standing": predictor.standing(answer, parameters),
        "top": listed,
        "network": {"label": classes[by_network], "probability": float(answer.network[by_network])},
        "cache": {"label": classes[by_cache], "probability": float(answer.cache[by_cache])}
        if answer.has_cache
        else None,
        "novelty": {"score": answer.novelty, "is_novel": answer.is_novel} if answer.novelty is not None else None,
        "credibility": predictor.credibility(answer, parameters),
        "same_as": answer.same_as,
        "neighbors": neighbors_of(predictor, answer, wanted.neighbors) if wanted.neighbors else [],
    }
    if wanted.neighbors:
        told["decisive"] = decisive_of(predictor, answer, parameters.lam, wanted.neighbors)
    if wanted.votes:
        told["votes"] = votes_of(answer, wanted.votes)
    if wanted.coverage is not None:
        told["prediction_set"] = predictor.prediction_set(answer, parameters, wanted.coverage)
    if wanted.abstain:
        told["abstained"] = bool(answer.is_novel) if answer.novelty is not None else None
    return told


def model_info(predictor: Predictor) -> ModelInfo:
    """What the active bundle's manifest says, and what was taught since."""
    manifest, by_class = predictor.bundle.manifest, predictor.overlay.class_weights
    return ModelInfo(
        generation=manifest.generation,
        created=manifest.created,
        classes=list(predictor.classes),
        network_classes=len(manifest.network_classes),
        theta=manifest.theta,
        lam=manifest.lam,
        k=manifest.k,
        entries=predictor.store.count,
        counts=predictor.overlay.counts.tolist(),
        class_weights=[1.0] * len(predictor.classes) if by_class is None else by_class.tolist(),
        taught=taught_info(predictor),
        dataset=manifest.dataset,
        network=manifest.network,
        input=manifest.input,
        store=manifest.store,
        engine=predictor.bundle.engine.name,
        calibration=predictor.bundle.calibrated.calibration,
        parameters_from=manifest.parameters_from,
        holdout=manifest.holdout,
        truncation=manifest.approximation_error,
    )


def taught_info(predictor: Predictor) -> TaughtInfo:
    """How an overlay differs from its generation."""
    overlay = predictor.overlay
    return TaughtInfo(
        images=overlay.added.images,
        relabelled=overlay.relabelled,
        removed=overlay.removed,
        change=overlay.change,
        suggests_rebuild=overlay.added.images + len(overlay.corrections) >= SUGGEST_REBUILD,
    )


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
