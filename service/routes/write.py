"""The answer to an upload: what it says, as OpenAPI shows it, written as bytes.

A large one is written in a thread: nobody else would be heard for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.decisive import decisive
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.journal import number_in
from secondlook.model.manifest import Standing
from secondlook.service.batching.turns import Reply, Timing
from secondlook.service.problems import Problem, of_image
from secondlook.service.routes.query import PredictQuery
from secondlook.service.schemas import thumbnail_of

LIGHT = 500
"""Numbers in an answer, about, up to which it is written where it is asked for: in less than a millisecond."""
NUMBERS_OF_CLASS, NUMBERS_OF_NEIGHBOR = 4, 40
"""What listing one costs, in numbers: a neighbour is looked up in the table of entries."""


class Neighbor(TypedDict):
    """A cached entry near the image."""

    id: int
    label: str
    similarity: float
    weight: Annotated[float, Field(description="Its share of the cache's vote.")]
    source: Annotated[str, Field(description="Where its image came from.")]
    mirrored: bool
    taught: Annotated[bool, Field(description="Whether its image was taught, and does not come from a dataset.")]
    thumbnail: Annotated[str | None, Field(description="Where its picture is; null where there is none.")]


class Decisive(TypedDict):
    """The fewest of the listed entries without whose votes another class would have won."""

    ids: list[int]
    instead: Annotated[str, Field(description="The class that would have.")]


class Votes(TypedDict):
    """The nearest entries, nearest first: what any theta, lam and k up to their number make of them is arithmetic."""

    indices: Annotated[list[int], Field(description="Their classes, as indices of the model's.")]
    similarities: list[float]


class ClassScore(TypedDict):
    """One class's probability: mixed, and what network and cache say."""

    label: str
    index: int
    probability: float
    network: Annotated[float | None, Field(description="null where the network has no head.")]
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
    network: Annotated[
        Opinion | None, Field(description="null where the network has no head: the cache answers alone.")
    ]
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


async def write(
    reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], query: PredictQuery
) -> bytes:
    """Write ``Predictions`` as JSON for a request's images, in order, of which some may have failed."""
    by_image = (
        query.votes
        + NUMBERS_OF_NEIGHBOR * query.neighbors
        + NUMBERS_OF_CLASS * min(query.top, len(reply.predictor.classes))
    )
    if len(results) * by_image <= LIGHT:
        return _dump(reply, results, filenames, query)
    return await asyncio.to_thread(_dump, reply, results, filenames, query)


def _dump(
    reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], query: PredictQuery
) -> bytes:
    parameters = reply.parameters
    head = {
        "generation": reply.predictor.bundle.manifest.generation,
        "lam": parameters.lam,
        "theta": parameters.theta,
        "k": parameters.k,
    }
    # One by one: the encoder lets no other thread go before it is done.
    predictions = b",".join(
        PREDICTION.dump_json(
            of_image(result, filename).problem
            if isinstance(result, Exception)
            else prediction(reply.predictor, result, parameters, filename, query)
        )
        for result, filename in zip(results, filenames, strict=True)
    )
    return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"predictions":[' + predictions + b"]}"


def prediction(
    predictor: Predictor, answer: Answer, parameters: Parameters, filename: str | None, query: PredictQuery
) -> Prediction:
    """One image's answer, which was given under these parameters."""
    classes = predictor.classes
    order = (-answer.mixed).argsort(kind="stable")[: query.top]
    listed: list[ClassScore] = [
        {
            "label": classes[i],
            "index": int(i),
            "probability": float(answer.mixed[i]),
            "network": float(answer.network[i]) if answer.has_network else None,
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
        "network": {"label": classes[by_network], "probability": float(answer.network[by_network])}
        if answer.has_network
        else None,
        "cache": {"label": classes[by_cache], "probability": float(answer.cache[by_cache])}
        if answer.has_cache
        else None,
        "novelty": {"score": answer.novelty, "is_novel": answer.is_novel} if answer.novelty is not None else None,
        "credibility": predictor.credibility(answer, parameters),
        "same_as": answer.same_as,
        "neighbors": neighbors_of(predictor, answer, query.neighbors) if query.neighbors else [],
    }
    if query.neighbors:
        told["decisive"] = decisive_of(predictor, answer, parameters.lam, query.neighbors)
    if query.votes:
        told["votes"] = votes_of(answer, query.votes)
    if query.coverage is not None:
        told["prediction_set"] = predictor.prediction_set(answer, parameters, query.coverage)
    if query.abstain:
        told["abstained"] = bool(answer.is_novel) if answer.novelty is not None else None
    return told


def neighbors_of(predictor: Predictor, answer: Answer, count: int) -> list[Neighbor]:
    """An answer's nearest entries, at most ``count``."""
    overlay = predictor.overlay
    neighbors: list[Neighbor] = []
    for i in range(min(count, len(answer.ids))):
        # An id below 0 is a place for which the store found no entry.
        entry = overlay.entry(int(answer.ids[i])) if answer.ids[i] >= 0 else None
        if entry is None:
            continue
        neighbors.append(
            {
                "id": entry.id,
                "label": overlay.classes[answer.values[i]],
                "similarity": float(answer.similarities[i]),
                "weight": float(answer.weights[i]),
                "source": entry.source,
                "mirrored": entry.mirrored,
                "taught": number_in(entry.source) is not None,
                "thumbnail": thumbnail_of(entry),
            }
        )
    return neighbors


def decisive_of(predictor: Predictor, answer: Answer, lam: float, count: int) -> Decisive | None:
    """Those of its nearest entries, of at most ``count``, that decide it."""
    winner = int(answer.mixed.argmax())
    votes = decisive(answer.network, answer.full_vote, lam, winner, answer.values[:count], answer.weights[:count])
    if votes is None:
        return None
    return {
        "ids": answer.ids[votes.places].tolist(),
        "instead": predictor.classes[votes.instead],
    }


def votes_of(answer: Answer, count: int) -> Votes:
    """Its ``count`` nearest entries, or as many as there are."""
    there = answer.ids[:count] >= 0
    return {
        "indices": answer.values[:count][there].tolist(),
        "similarities": answer.similarities[:count][there].tolist(),
    }


def server_timing(timing: Timing) -> str:
    """The value of the header Server-Timing (W3C): milliseconds by stage, those of the batch for all of its images."""
    batch = timing.batch
    stages = (
        ("decode", timing.decode),
        ("queue", timing.queue),
        ("encode", batch.encode),
        ("search", batch.search),
        ("vote", batch.vote),
    )
    return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stages)
