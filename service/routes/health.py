"""For whoever watches the server: whether it lives, whether it answers, and what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from secondlook.service.errors import UnavailableError
from secondlook.service.metrics import CONTENT_TYPE, Metrics
from secondlook.service.problems import Kind, documented
from secondlook.service.schemas import Health
from secondlook.service.state import Running

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Whether the process lives")
async def livez(state: Running) -> Health:
    """200 as long as anything is answered at all."""
    return Health(status="alive", generation=state.generations.active)


@router.get("/readyz", summary="Whether images are answered", responses=documented(Kind.NOT_READY))
async def readyz(state: Running) -> Health:
    """503 when requests should go elsewhere."""
    if not state.is_ready:
        raise UnavailableError("the server does not compute answers now: send requests elsewhere")
    return Health(status="ready", generation=state.generations.active)


# Asynchronous, because it reads what the event loop changes.
@router.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
async def get_metrics(request: Request) -> Response:
    """What Prometheus collects; it needs no key, as docs/threat-model.md says."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.page(), media_type=CONTENT_TYPE)
