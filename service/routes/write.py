"""The answer to an upload, written as bytes.

A large one is written in a thread: nobody else would be heard for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.predictor import Answer
from secondlook.model.answering.told import Asked, Prediction, prediction
from secondlook.service.batching.turns import Reply, Timing
from secondlook.service.problems import Problem, of_image
from secondlook.service.schemas import thumbnail_of

LIGHT = 500
"""Numbers in an answer, about, up to which it is written where it is asked for: in less than a millisecond."""
NUMBERS_OF_CLASS, NUMBERS_OF_NEIGHBOR = 4, 40
"""What listing one costs, in numbers: a neighbour is looked up in the table of entries."""


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
    reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], asked: Asked
) -> bytes:
    """Write ``Predictions`` as JSON for a request's images, in order, of which some may have failed."""
    by_image = (
        asked.votes
        + NUMBERS_OF_NEIGHBOR * asked.neighbors
        + NUMBERS_OF_CLASS * min(asked.top, len(reply.predictor.classes))
    )
    if len(results) * by_image <= LIGHT:
        return _dump(reply, results, filenames, asked)
    return await asyncio.to_thread(_dump, reply, results, filenames, asked)


def _dump(reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], asked: Asked) -> bytes:
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
            else prediction(reply.predictor, result, parameters, filename, asked, thumbnail_of)
        )
        for result, filename in zip(results, filenames, strict=True)
    )
    return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"predictions":[' + predictions + b"]}"


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
