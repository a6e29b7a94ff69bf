"""An answer in words: what is told of one image, whoever asks.

A server writes these dictionaries as JSON, and describes them in OpenAPI by what stands beside their members; without
a server they are read as ``secondlook.answers.Prediction``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from secondlook.model.answering.decisive import decisive
from secondlook.model.answering.doubt import check_coverage
from secondlook.model.answering.predictor import MAX_NEIGHBORS, NO_OVERRIDES, Answer, Overrides, Parameters, Predictor
from secondlook.model.answering.wanted import Found
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError
from secondlook.model.journal import number_in
from secondlook.model.manifest import Standing

MAX_TOP, MAX_VOTES = 1000, 1000
DIGITS = 9
"""Of a key's numbers where they are text: fewer would not give every float32 back."""


@dataclass(frozen=True)
class Asked:
    """What is to be told of an image.

    Raises:
        ParameterError: something is out of its range.
    """

    top: int = 5
    """Classes listed."""
    neighbors: int = 0
    """Nearest entries listed."""
    votes: int = 0
    """Nearest entries told by class and similarity alone."""
    coverage: float | None = None
    """How often a set of labels is to hold the right one; None = no set is given."""
    abstain: bool = False
    """Whether to say if 'unknown' were the better answer."""
    overrides: Overrides = NO_OVERRIDES
    """Parameters in place of the bundle's own."""

    def __post_init__(self) -> None:
        for name, least, most in (("top", 1, MAX_TOP), ("neighbors", 0, MAX_NEIGHBORS), ("votes", 0, MAX_VOTES)):
            number = getattr(self, name)
            if not isinstance(number, Integral) or not least <= int(number) <= most:
                raise ParameterError(f"{name} must be a whole number from {least} to {most}, not {number!r}")
        if self.coverage is not None:
            if not isinstance(self.coverage, Real):
                raise ParameterError(f"coverage must be a number, not {self.coverage!r}")
            check_coverage(self.coverage)

    @property
    def nearest(self) -> int:
        """How many of the nearest entries the answer needs."""
        return max(self.neighbors, self.votes)


Picture = Callable[[Entry], str | None]
"""Where an entry's picture is; None where there is none."""


class NearEntry(TypedDict):
    """A cached entry near the image."""

    id: int
    label: str
    similarity: float
    source: Annotated[str, Field(description="Where its image came from.")]
    mirrored: bool
    taught: Annotated[bool, Field(description="Whether its image was taught, and does not come from a dataset.")]
    thumbnail: Annotated[str | None, Field(description="Where its picture is; null where there is none.")]


class Neighbor(NearEntry):
    """A cached entry near the image, which votes."""

    weight: Annotated[float, Field(description="Its share of the cache's vote.")]


class Nearest(TypedDict):
    """The entries nearest to one image, nearest first."""

    filename: str | None
    neighbors: list[NearEntry]


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


def prediction(
    predictor: Predictor, answer: Answer, parameters: Parameters, filename: str | None, asked: Asked, picture: Picture
) -> Prediction:
    """What is told of one image's answer, which was given under these parameters."""
    classes = predictor.classes
    order = (-answer.mixed).argsort(kind="stable")[: asked.top]
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
        "neighbors": _neighbors(predictor, answer, asked.neighbors, picture) if asked.neighbors else [],
    }
    if asked.neighbors:
        told["decisive"] = _decisive(predictor, answer, parameters.lam, asked.neighbors)
    if asked.votes:
        told["votes"] = _votes(answer, asked.votes)
    if asked.coverage is not None:
        told["prediction_set"] = predictor.prediction_set(answer, parameters, asked.coverage)
    if asked.abstain:
        told["abstained"] = bool(answer.is_novel) if answer.novelty is not None else None
    return told


def nearest(predictor: Predictor, found: Found, filename: str | None, picture: Picture) -> Nearest:
    """What is told of a search for one image."""
    neighbors = (_near(predictor, *of, picture) for of in zip(found.ids, found.values, found.similarities, strict=True))
    return {"filename": filename, "neighbors": [one for one in neighbors if one is not None]}


def written_key(key: Floats) -> list[float]:
    """A key's numbers (D,) with nine digits, as JSON and CSV have them, which are read back as the same float32.

    As it is, a float32 is written with seventeen, which are half as many bytes again.
    """
    exact = key.astype(np.float64)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.maximum(np.abs(exact), np.finfo(np.float32).tiny))))
    numbers: list[float] = (np.round(exact * scale) / scale).tolist()
    return numbers


def _neighbors(predictor: Predictor, answer: Answer, count: int, picture: Picture) -> list[Neighbor]:
    """An answer's nearest entries, at most ``count``."""
    neighbors: list[Neighbor] = []
    for i in range(min(count, len(answer.ids))):
        near = _near(predictor, answer.ids[i], answer.values[i], answer.similarities[i], picture)
        if near is not None:
            neighbors.append({**near, "weight": float(answer.weights[i])})
    return neighbors


def _near(
    predictor: Predictor, id: np.int64, value: np.int64, similarity: np.float32, picture: Picture
) -> NearEntry | None:
    """A near entry; None where there is none, as at an id below 0, for which the store found none."""
    overlay = predictor.overlay
    entry = overlay.entry(int(id)) if id >= 0 else None
    if entry is None:
        return None
    return {
        "id": entry.id,
        "label": overlay.classes[value],
        "similarity": float(similarity),
        "source": entry.source,
        "mirrored": entry.mirrored,
        "taught": number_in(entry.source) is not None,
        "thumbnail": picture(entry),
    }


def _decisive(predictor: Predictor, answer: Answer, lam: float, count: int) -> Decisive | None:
    """Those of its nearest entries, of at most ``count``, that decide it."""
    winner = int(answer.mixed.argmax())
    votes = decisive(answer.network, answer.full_vote, lam, winner, answer.values[:count], answer.weights[:count])
    if votes is None:
        return None
    return {
        "ids": answer.ids[votes.places].tolist(),
        "instead": predictor.classes[votes.instead],
    }


def _votes(answer: Answer, count: int) -> Votes:
    """Its ``count`` nearest entries, or as many as there are."""
    there = answer.ids[:count] >= 0
    return {
        "indices": answer.values[:count][there].tolist(),
        "similarities": answer.similarities[:count][there].tolist(),
    }
