"""``POST /v1/search``: the entries nearest to images, without a vote."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from secondlook.model.answering.predictor import Outcome
from secondlook.model.answering.told import Nearest, nearest
from secondlook.model.answering.wanted import Found, Search
from secondlook.service.problems import Problem
from secondlook.service.routes import images
from secondlook.service.routes.query import SearchQuery
from secondlook.service.routes.write import NUMBERS_OF_NEIGHBOR, as_json, dump
from secondlook.service.schemas import thumbnail_of

NEAREST = TypeAdapter(Nearest)


class Searches(TypedDict):
    """The entries nearest to a request's images, in the order sent; a failed image has a problem in its place."""

    generation: str
    k: Annotated[int, Field(description="How many were looked for.")]
    results: list[Nearest | Problem]


_EXAMPLE = {
    "generation": "20261122T101500Z-3f9c",
    "k": 1,
    "results": [
        {
            "filename": "cat.png",
            "neighbors": [
                {
                    "id": 1234,
                    "label": "cat",
                    "similarity": 0.981,
                    "source": "cat/0007.jpg",
                    "mirrored": False,
                    "taught": False,
                    "thumbnail": "/v1/entries/1234/thumbnail",
                }
            ],
        }
    ],
}


_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": _EXAMPLE}}}}


async def search(request: Request, query: Annotated[SearchQuery, Query()]) -> Response:
    """Send images as to `/v1/predict`: the entries nearest to each, nearest first, taught ones among them.

    Nothing is voted on. An image that fails has a problem document in its place; a single image's problem is the
    response itself.
    """
    told = await images.tell(request, Search(query.k))
    reply = told.reply

    def one(result: Outcome, filename: str | None) -> bytes:
        assert isinstance(result, Found)
        return NEAREST.dump_json(nearest(reply.predictor, result, filename, thumbnail_of))

    body = await dump(
        lambda: as_json(reply, {"k": query.k}, "results", told.results, told.filenames, one),
        numbers=NUMBERS_OF_NEIGHBOR * query.k * len(told.results),
    )
    return images.respond(body, told)


def install(app: FastAPI) -> None:
    """Serve the call."""
    images.install(app, "/v1/search", search, SearchQuery, "Find the nearest entries", Searches, also=_ANSWER)
