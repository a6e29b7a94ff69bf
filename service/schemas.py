"""What the calls answer, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated, NamedTuple, NotRequired

from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from model.manifest import Calibration, DatasetInfo, InputInfo, Manifest, NetworkInfo, StoreInfo, Truncation
from model.predictor import Answer, Parameters, Predictor
from service.problems import Problem
from service.reasons import Decisive, Neighbor, Votes, decisive_of, neighbors_of, votes_of


class ClassScore(TypedDict):
    """One class's probability: mixed, and what network and cache say."""

    label: str
    index: int
    probability: float
    network: float
    cache: float


class Opinion(TypedDict):
    """The most probable class by network or cache alone."""

    label: str
    probability: float


class Novelty(TypedDict):
    """How unlike the cached images the image is."""

    score: Annotated[
        float,
        Field(
            description="0 to 1, by the network's energy and the nearest entry; where the model has no calibration by "
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
    top: list[ClassScore]
    network: Opinion
    cache: Opinion
    novelty: Novelty
    credibility: Annotated[
        float | None,
        Field(
            description="How well its neighbours bear the label out: among which share of known images the right one "
            "had no greater share of the vote. null without a calibration, or with another theta or k."
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
        Annotated[bool, Field(description="With `abstain`: whether to say 'unknown' instead, as the image is novel.")]
    ]


class Predictions(TypedDict):
    """What a request's images show, in the order sent; an image that failed has a problem document in its place."""

    generation: str
    lam: float
    theta: float
    k: Annotated[int | None, Field(description="null = all entries vote.")]
    predictions: list[Prediction | Problem]


# Dictionaries, written by pydantic as they are: models would be validated, and they are ours.
ANSWER = TypeAdapter(Predictions)


class ModelInfo(BaseModel):
    """The bundle that answers."""

    generation: str
    created: str
    classes: list[str]
    theta: float
    lam: float
    k: int | None = Field(description="null = all entries vote.")
    entries: int
    dataset: DatasetInfo
    network: NetworkInfo
    input: InputInfo
    store: StoreInfo
    engine: str
    calibration: Calibration | None
    truncation: Truncation | None = Field(
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
    classes = predictor.bundle.manifest.classes
    order = (-answer.mixed).argsort(kind="stable")[: wanted.top]
    listed: list[ClassScore] = [
        {
            "label": classes[i],
            "index": int(i),
            "probability": float(answer.mixed[i]),
            "network": float(answer.network[i]),
            "cache": float(answer.cache[i]),
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
        "top": listed,
        "network": {"label": classes[by_network], "probability": float(answer.network[by_network])},
        "cache": {"label": classes[by_cache], "probability": float(answer.cache[by_cache])},
        "novelty": {"score": answer.novelty, "is_novel": answer.is_novel},
        "credibility": predictor.credibility(answer, parameters),
        "neighbors": neighbors_of(predictor, answer, wanted.neighbors) if wanted.neighbors else [],
    }
    if wanted.neighbors:
        told["decisive"] = decisive_of(predictor, answer, parameters.lam, wanted.neighbors)
    if wanted.votes:
        told["votes"] = votes_of(answer, wanted.votes)
    if wanted.coverage is not None:
        told["prediction_set"] = predictor.prediction_set(answer, parameters, wanted.coverage)
    if wanted.abstain:
        told["abstained"] = bool(answer.is_novel)
    return told


def model_info(predictor: Predictor) -> ModelInfo:
    """What the active bundle's manifest says."""
    manifest = predictor.bundle.manifest
    return ModelInfo(
        generation=manifest.generation,
        created=manifest.created,
        classes=list(manifest.classes),
        theta=manifest.theta,
        lam=manifest.lam,
        k=manifest.k,
        entries=predictor.bundle.store.count,
        dataset=manifest.dataset,
        network=manifest.network,
        input=manifest.input,
        store=manifest.store,
        engine=predictor.bundle.engine.name,
        calibration=manifest.calibration,
        truncation=manifest.truncation,
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
