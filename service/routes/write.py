"""Answers as bytes. A large one is written in a thread: nobody else would be heard for as long as it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from secondlook.model.answering.predictor import Answer
from secondlook.service.batching.turns import Reply
from secondlook.service.problems import of_image
from secondlook.service.schemas import PREDICTION, Wanted, prediction

LIGHT = 500
"""Numbers in an answer, about, up to which it is written where it is asked for: in less than a millisecond."""
NUMBERS_OF_CLASS, NUMBERS_OF_NEIGHBOR = 4, 40
"""What listing one costs, in numbers: a neighbour is looked up in the table of entries."""


async def written(
    reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], wanted: Wanted
) -> bytes:
    """A document of ``schemas.Predictions`` for images, of which some may have failed."""
    by_image = (
        wanted.votes
        + NUMBERS_OF_NEIGHBOR * wanted.neighbors
        + NUMBERS_OF_CLASS * min(wanted.top, len(reply.predictor.classes))
    )
    if len(results) * by_image <= LIGHT:
        return _write(reply, results, filenames, wanted)
    return await asyncio.to_thread(_write, reply, results, filenames, wanted)


def _write(
    reply: Reply, results: Sequence[Answer | Exception], filenames: Sequence[str | None], wanted: Wanted
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
            else prediction(reply.predictor, result, parameters, filename, wanted)
        )
        for result, filename in zip(results, filenames, strict=True)
    )
    return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"predictions":[' + predictions + b"]}"
