"""``GET /v1/model`` and ``/v1/report``: what answers, with which parameters, and how well each class is told."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from secondlook.service.schemas import ModelInfo, ReportInfo, model_info, report_info
from secondlook.service.state import Current, Running
from secondlook.service.teachable import why_not_teachable

router = APIRouter()


@router.get("/v1/model", tags=["model"], summary="The bundle that answers", response_model=ModelInfo)
async def get_model(request: Request, state: Running, predictor: Current) -> Response:
    """Its classes, parameters, dataset and calibration, what was taught since, and whether more can be."""
    told = model_info(predictor, why_not_teachable(state, request.app.state.keys))
    # FastAPI would make dictionaries of it first, which takes ten times as long where there are many classes.
    return Response(told.model_dump_json(), media_type="application/json")


@router.get("/v1/report", tags=["model"], summary="How well each class is told", response_model=ReportInfo)
async def get_report(predictor: Current) -> Response:
    """Of each class, how its images were answered by an index that they took no part in, and what to do next."""
    return Response(report_info(predictor).model_dump_json(), media_type="application/json")
