"""Calls about images that change nothing: from the key to what came of each image, the same way for all of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from secondlook.model.answering.predictor import Outcome, Overrides
from secondlook.model.errors import NothingTaughtError
from secondlook.service.batching.turns import Asked, Reply, Timing
from secondlook.service.http.auth import OPTIONAL, require_predict
from secondlook.service.problems import Kind, documented, of_image
from secondlook.service.routes.answer import answer
from secondlook.service.routes.query import read_query
from secondlook.service.routes.receive import FIELD, announced_bytes, receive
from secondlook.service.routes.write import server_timing
from secondlook.service.state import State

_BINARY = {"type": "string", "format": "binary"}
_KINDS = (
    Kind.UNDECODABLE_IMAGE,
    Kind.IMAGE_TOO_SLOW,
    Kind.MALFORMED_REQUEST,
    Kind.KEY_MISSING,
    Kind.KEY_REFUSED,
    Kind.TOO_SLOWLY_SENT,
    Kind.TOO_MANY_BYTES,
    Kind.TOO_MANY_PIXELS,
    Kind.TOO_MANY_FILES,
    Kind.UNSUPPORTED_MEDIA_TYPE,
    Kind.INVALID_PARAMETER,
    Kind.MISSING_FILE,
    Kind.QUEUE_FULL,
    Kind.INTERNAL,
    Kind.NOT_READY,
    Kind.TOO_SLOW,
)

Call = Callable[..., Coroutine[Any, Any, Response]]


class Told(NamedTuple):
    """What came of a request's images."""

    reply: Reply
    results: list[Outcome | Exception]
    """One for each image, in the order sent; an image that failed has its error here."""
    filenames: list[str | None]
    """The client's names for them."""
    timing: Timing

    @property
    def generation(self) -> str:
        """Which bundle says so of all of them."""
        return self.reply.predictor.bundle.manifest.generation


async def tell(request: Request, asked: Asked, neighbors: int = 0, *, all_or_none: bool = False) -> Told:
    """Receive a request's images, and find out what is asked of them, unless the client leaves first.

    Each prediction lists its nearest ``neighbors`` entries.

    Raises:
        ProblemError: the only image failed, or one of several where it is all of them or none; or what ``receive`` and
            ``answer`` raise.
        NothingTaughtError: predictions are asked for, and nothing can be said of any image.
        ClientDisconnect: the client left.
    """
    state: State = request.app.state.running
    timing = Timing()
    with state.admission.admit(announced_bytes(request)) as ticket:
        try:
            uploads = (await receive(request, state.settings, ticket)).files
        except ClientDisconnect:
            state.metrics.count_dropped("client_gone")
            raise
        reply, results, _ = await answer(request, state, uploads, asked, neighbors, timing)
    if isinstance(asked, Overrides) and reply.predictor.knows_nothing:
        refusal = NothingTaughtError()
        state.metrics.count_results([refusal] * len(results))
        raise refusal
    state.metrics.count_results(results)
    filenames = [upload.filename for upload in uploads]
    if len(results) == 1 or all_or_none:
        for result, filename in zip(results, filenames, strict=True):
            if isinstance(result, Exception):
                raise of_image(result, filename)
    return Told(reply, results, filenames, timing)


def respond(body: bytes, told: Told, media_type: str = "application/json", **headers: str) -> Response:
    """The answer, with what each stage took."""
    return Response(body, media_type=media_type, headers={"Server-Timing": server_timing(told.timing), **headers})


def images_body(**texts: dict[str, str]) -> dict[str, Any]:
    """The request body, for OpenAPI, of a call that takes images, and these text fields beside them in a form."""
    return {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC; of several images in one, the first.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "additionalProperties": False,
                    "properties": {FIELD: {"type": "array", "minItems": 1, "items": _BINARY}, **texts},
                }
            },
            "image/*": {"schema": _BINARY},
        },
    }


def install(
    app: FastAPI,
    path: str,
    call: Call,
    query: type[BaseModel],
    summary: str,
    model: Any,
    *kinds: Kind,
    also: dict[int | str, dict[str, Any]] | None = None,
) -> None:
    """Serve a call that takes images and a query of such parameters; ``also`` is what else OpenAPI says of its answers.

    FastAPI documents it by its function's signature as any other, but does not look for the arguments itself: that
    takes 0.15 ms of the event loop a call, half as much as all else that it does for one. Nor is it in a router of its
    own, in which finding it takes as long again.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def handle(request: Request) -> Response:
                await require_predict(request)
                response: Response = await self.endpoint(request, read_query(request, query))
                return response

            return handle

    app.router.add_api_route(
        path,
        call,
        methods=["POST"],
        tags=["predict"],
        route_class_override=Route,
        summary=summary,
        openapi_extra={"requestBody": images_body(), **OPTIONAL},
        response_model=model,
        responses=documented(*_KINDS, *kinds) | (also or {}),
    )
