"""What the calls answer, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from model.manifest import Calibration, DatasetInfo, InputInfo, Manifest, NetworkInfo, StoreInfo, Truncation
from model.predictor import Answer, Predictor
from service.problems import Problem


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

    score: Annotated[float, Field(description="1 - similarity of the nearest entries, 0 to 2.")]
    is_novel: Annotated[
        bool | None, Field(description="Whether that is above the calibrated threshold; null without one.")
    ]


class Neighbor(TypedDict):
    """A cached entry near the image."""

    id: int
    label: str
    similarity: float
    weight: Annotated[float, Field(description="Its share of the cache's vote.")]


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
    neighbors: list[Neighbor]


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


def prediction(predictor: Predictor, answer: Answer, filename: str | None, top: int) -> Prediction:
    """One image's answer, with its ``top`` most probable classes."""
    classes = predictor.bundle.manifest.classes
    order = (-answer.mixed).argsort(kind="stable")[:top]
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
    # An id below 0 is a place for which the store found no entry.
    nearest: list[Neighbor] = [
        {"id": int(entry), "label": classes[value], "similarity": float(similarity), "weight": float(weight)}
        for entry, value, similarity, weight in zip(
            answer.ids, answer.values, answer.similarities, answer.weights, strict=True
        )
        if entry >= 0
    ]
    first = listed[0]
    return {
        "filename": filename,
        "label": first["label"],
        "index": first["index"],
        "probability": first["probability"],
        "top": listed,
        "network": {"label": classes[by_network], "probability": float(answer.network[by_network])},
        "cache": {"label": classes[by_cache], "probability": float(answer.cache[by_cache])},
        "novelty": {"score": answer.novelty, "is_novel": answer.is_novel},
        "neighbors": nearest,
    }


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
