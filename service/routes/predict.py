"""``POST /v1/predict``: an upload's way from the key to the answer, each stage in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from secondlook.service.batching.turns import Timing
from secondlook.service.http.auth import OPTIONAL, require_predict
from secondlook.service.problems import Kind, documented, of_image
from secondlook.service.routes.answer import answer
from secondlook.service.routes.query import PredictQuery, read_query
from secondlook.service.routes.receive import FIELD, announced_bytes, receive
from secondlook.service.routes.write import Predictions, server_timing, write
from secondlook.service.state import State


class _Route(APIRoute):
    """A route whose key and query are read as one function says.

    FastAPI documents it by its function's signature as any other, but does not look for the arguments itself: that
    takes 0.15 ms of the event loop a call, half as much as all else that it does for one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            await require_predict(request)
            response: Response = await self.endpoint(request, read_query(request))
            return response

        return handle


_BINARY = {"type": "string", "format": "binary"}


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


async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Send one image or more in the multipart field `file`, or one as a raw body of type `image/*`.

    An image that fails has a problem document in its place, the others are answered; a single image's problem is the
    response itself.
    """
    state: State = request.app.state.running
    asked, timing = query.asked, Timing()
    with state.admission.admit(announced_bytes(request)) as ticket:
        try:
            uploads = (await receive(request, state.settings, ticket)).files
        except ClientDisconnect:
            state.metrics.count_dropped("client_gone")
            raise
        reply, results, _ = await answer(request, state, uploads, asked.overrides, asked.nearest, timing)
    state.metrics.count_results(results)
    if len(results) == 1 and isinstance(results[0], Exception):
        raise of_image(results[0], uploads[0].filename)
    body = await write(reply, results, [upload.filename for upload in uploads], asked)
    return Response(body, media_type="application/json", headers={"Server-Timing": server_timing(timing)})


def install(app: FastAPI) -> None:
    """Serve the call; not by a router of its own, in which finding it takes as long again."""
    app.router.add_api_route(
        "/v1/predict",
        predict,
        methods=["POST"],
        tags=["predict"],
        route_class_override=_Route,
        summary="Say what images show",
        openapi_extra={"requestBody": images_body(), **OPTIONAL},
        response_model=Predictions,
        responses=documented(
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
        ),
    )
