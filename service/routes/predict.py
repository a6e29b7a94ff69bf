"""``POST /v1/predict``: what images show."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from secondlook.service.problems import Kind
from secondlook.service.routes import images
from secondlook.service.routes.query import PredictQuery
from secondlook.service.routes.write import Predictions, write


async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Send one image or more in the multipart field `file`, or one as a raw body of type `image/*`.

    An image that fails has a problem document in its place, the others are answered; a single image's problem is the
    response itself. Where nothing was taught yet and the network has no head, 409.
    """
    asked = query.asked
    told = await images.tell(request, asked.overrides, asked.nearest)
    return images.respond(await write(told.reply, told.results, told.filenames, asked), told)


def install(app: FastAPI) -> None:
    """Serve the call."""
    images.install(app, "/v1/predict", predict, PredictQuery, "Say what images show", Predictions, Kind.NOTHING_TAUGHT)
