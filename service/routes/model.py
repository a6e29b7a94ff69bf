"""``GET /v1/model``: what answers, and with which parameters."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from secondlook.service.schemas import ModelInfo, model_info
from secondlook.service.state import Current, Running
from secondlook.service.teachable import why_not_teachable

router = APIRouter()


@router.get("/v1/model", tags=["model"], summary="The bundle that answers", response_model=ModelInfo)
async def get_model(request: Request, state: Running, predictor: Current) -> Response:
    """Its classes, parameters, dataset and calibration, what was taught since, and whether more can be."""
    told = model_info(predictor, why_not_teachable(state, request.app.state.keys))
    # FastAPI would make dictionaries of it first, which takes ten times as long where there are many classes.
    return Response(told.model_dump_json(), media_type="application/json")
