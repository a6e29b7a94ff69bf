"""The answer to an upload, written as bytes.

A large one is written in a thread: nobody else would be heard for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.predictor import Answer, Outcome, Parameters
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
PREDICTION: TypeAdapter[Prediction] = TypeAdapter(Prediction)
PROBLEM: TypeAdapter[Problem] = TypeAdapter(Problem)


async def write(
    reply: Reply, results: Sequence[Outcome | Exception], filenames: Sequence[str | None], asked: Asked
) -> bytes:
    """Write ``Predictions`` as JSON for a request's images, in order, of which some may have failed."""
    by_image = (
        asked.votes
        + NUMBERS_OF_NEIGHBOR * asked.neighbors
        + NUMBERS_OF_CLASS * min(asked.top, len(reply.predictor.classes))
    )
    return await dump(lambda: _dump(reply, results, filenames, asked), numbers=len(results) * by_image)


def _dump(reply: Reply, results: Sequence[Outcome | Exception], filenames: Sequence[str | None], asked: Asked) -> bytes:
    parameters = reply.wanted
    assert isinstance(parameters, Parameters)

    def one(result: Outcome, filename: str | None) -> bytes:
        assert isinstance(result, Answer)
        return PREDICTION.dump_json(prediction(reply.predictor, result, parameters, filename, asked, thumbnail_of))

    head = {"lam": parameters.lam, "theta": parameters.theta, "k": parameters.k}
    return as_json(reply, head, "predictions", results, filenames, one)


async def dump(write: Callable[[], bytes], *, numbers: int) -> bytes:
    """Write an answer of about so many numbers, a large one in a thread."""
    return write() if numbers <= LIGHT else await asyncio.to_thread(write)


def as_json(
    reply: Reply,
    head: Mapping[str, object],
    name: str,
    results: Iterable[Outcome | Exception],
    filenames: Iterable[str | None],
    one: Callable[[Outcome, str | None], bytes],
) -> bytes:
    """Write an object of the generation, ``head``, and a list ``name`` with what ``one`` writes of each image.

    An image that failed has a problem document in its place.
    """
    shared = {"generation": reply.predictor.bundle.manifest.generation, **head}
    # One by one: the encoder lets no other thread go before it is done.
    items = b",".join(
        PROBLEM.dump_json(of_image(result, filename).problem)
        if isinstance(result, Exception)
        else one(result, filename)
        for result, filename in zip(results, filenames, strict=True)
    )
    return json.dumps(shared, separators=(",", ":")).encode()[:-1] + f',"{name}":['.encode() + items + b"]}"


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
