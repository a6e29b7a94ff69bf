"""``POST /v1/embed``: images' keys, as JSON or as bytes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, NotRequired

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.predictor import Outcome
from secondlook.model.answering.told import written_key
from secondlook.model.answering.wanted import Embed, Embedded
from secondlook.service.http.accept import preferred
from secondlook.service.problems import Kind, Problem, ProblemError, clean
from secondlook.service.routes import images
from secondlook.service.routes.query import EmbedQuery
from secondlook.service.routes.write import as_json, dump

JSON, BYTES = "application/json", "application/octet-stream"
FILENAME: TypeAdapter[str | None] = TypeAdapter(str | None)
NUMBERS: TypeAdapter[list[float]] = TypeAdapter(list[float])


class Embedding(TypedDict):
    """One image's key."""

    filename: str | None
    embedding: Annotated[list[float], Field(description="`dim` numbers of float32, together of length 1.")]
    logits: NotRequired[
        Annotated[list[float], Field(description="Of the network's classes; there where they were asked for.")]
    ]


class Embeddings(TypedDict):
    """The keys of a request's images, in the order sent; an image that failed has a problem document in its place."""

    generation: str
    dim: int
    embeddings: list[Embedding | Problem]


_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            JSON: {
                "example": {
                    "generation": "20261122T101500Z-3f9c",
                    "dim": 4,
                    "embeddings": [{"filename": "cat.png", "embedding": [0.5, -0.5, 0.1, 0.7]}],
                }
            },
            BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {
            "X-Shape": {
                "description": "Of bytes: how many images, and numbers of each, as `N,D`; with logits, D is those of "
                "both.",
                "schema": {"type": "string", "pattern": "^[0-9]+,[0-9]+$"},
            },
            "X-Generation": {"description": "Of bytes: which bundle made them.", "schema": {"type": "string"}},
        },
    }
}


async def embed(request: Request, query: Annotated[EmbedQuery, Query()]) -> Response:
    """Send images as to `/v1/predict`: the key of each, which is what the cache is searched with.

    Keys of one generation can be compared with each other by their inner product, those of two only where both have
    the same encoder. As JSON, an image that fails has a problem document in its place (a single image's is the response
    itself). With `Accept: application/octet-stream` the body is float32, little endian, row by row, and its shape is in
    the header X-Shape: a third of the bytes, and nothing to parse; there one bad image fails the request. With
    `logits=true` each key is followed by the network's logits, as `/v1/suggest` wants them.
    """
    accepted = ",".join(request.headers.getlist("accept"))
    media_type = preferred(accepted, (JSON, BYTES))
    if media_type is None:
        raise ProblemError(Kind.NOT_ACCEPTABLE, f"There is no {clean(accepted)} here: accept {JSON} or {BYTES}.")
    told = await images.tell(request, Embed(), all_or_none=media_type == BYTES)
    dim = told.reply.predictor.bundle.engine.dim
    wide = dim + (told.reply.predictor.bundle.engine.classes if query.logits else 0)
    numbers = wide * len(told.results)
    if media_type == JSON:
        one = partial(_one, with_logits=query.logits)
        body = await dump(
            lambda: as_json(told.reply, {"dim": dim}, "embeddings", told.results, told.filenames, one), numbers=numbers
        )
        return images.respond(body, told, Vary="Accept")
    found = [result for result in told.results if isinstance(result, Embedded)]
    rows = [np.concatenate((each.key, each.logits)) if query.logits else each.key for each in found]
    body = await dump(lambda: np.stack(rows).astype("<f4").tobytes(), numbers=numbers)
    named = {"X-Shape": f"{len(rows)},{wide}", "X-Generation": told.generation, "Vary": "Accept"}
    return images.respond(body, told, BYTES, **named)


def _one(result: Outcome, filename: str | None, *, with_logits: bool) -> bytes:
    assert isinstance(result, Embedded)
    logits = b',"logits":%b' % NUMBERS.dump_json(written_key(result.logits)) if with_logits else b""
    return b'{"filename":%b,"embedding":%b%b}' % (
        FILENAME.dump_json(filename),
        NUMBERS.dump_json(written_key(result.key)),
        logits,
    )


def install(app: FastAPI) -> None:
    """Serve the call."""
    images.install(app, "/v1/embed", embed, EmbedQuery, "Embed images", Embeddings, Kind.NOT_ACCEPTABLE, also=_ANSWER)
