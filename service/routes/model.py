"""``GET /v1/model``: what answers, and with which parameters."""

from __future__ import annotations

from fastapi import APIRouter, Response

from secondlook.service.schemas import ModelInfo, model_info
from secondlook.service.state import Current

router = APIRouter()


@router.get("/v1/model", tags=["model"], summary="The bundle that answers", response_model=ModelInfo)
async def get_model(predictor: Current) -> Response:
    """Its classes, parameters, dataset and calibration, and what was taught since."""
    told = model_info(predictor)
    # FastAPI would make dictionaries of it first, which takes ten times as long where there are many classes.
    return Response(told.model_dump_json(), media_type="application/json")
