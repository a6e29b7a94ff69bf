"""Why an answer is what it is, and how far to trust it: the parts of a prediction that are asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from secondlook.model.answering.decisive import decisive
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.journal import number_in
from secondlook.model.stores.added_keys import number_of
from secondlook.service.prefix import link

MAX_VOTES = 1000


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


def thumbnail_of(entry: Entry) -> str | None:
    """Where an entry's picture is."""
    has_picture = entry.sheet is not None or number_of(entry.id) is not None
    return link(f"/v1/entries/{entry.id}/thumbnail") if has_picture else None


def neighbors_of(predictor: Predictor, answer: Answer, count: int) -> list[Neighbor]:
    """An answer's nearest entries, at most ``count``."""
    overlay = predictor.overlay
    found: list[Neighbor] = []
    for i in range(min(count, len(answer.ids))):
        # An id below 0 is a place for which the store found no entry.
        entry = overlay.entry(int(answer.ids[i])) if answer.ids[i] >= 0 else None
        if entry is None:
            continue
        found.append(
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
    return found


def decisive_of(predictor: Predictor, answer: Answer, lam: float, count: int) -> Decisive | None:
    """Those of its nearest entries, of at most ``count``, that decide it."""
    winner = int(answer.mixed.argmax())
    found = decisive(answer.network, answer.whole, lam, winner, answer.values[:count], answer.weights[:count])
    if found is None:
        return None
    return {
        "ids": answer.ids[found.places].tolist(),
        "instead": predictor.classes[found.instead],
    }


def votes_of(answer: Answer, count: int) -> Votes:
    """Its ``count`` nearest entries, or as many as there are."""
    there = answer.ids[:count] >= 0
    return {
        "indices": answer.values[:count][there].tolist(),
        "similarities": answer.similarities[:count][there].tolist(),
    }
