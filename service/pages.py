"""The pages for people, from ``static/``, in which nothing comes from another address; and the one for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from service.metrics import CONTENT_TYPE, Metrics

STATIC = Path(__file__).parent / "static"
# Modules of two versions do not fit together: whether there is a newer one is asked each time.
FRESH = {"Cache-Control": "no-cache"}


class _Static(StaticFiles):
    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(FRESH)
        return response


async def _home() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=FRESH)


async def _docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=FRESH)


# Asynchronous, because it reads what the event loop changes.
async def _metrics(request: Request) -> Response:
    """What Prometheus collects; it needs no key, as docs/threat-model.md says."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.page(), media_type=CONTENT_TYPE)


def install(app: FastAPI) -> None:
    """Serve the pages."""
    app.add_api_route("/", _home, include_in_schema=False)
    # FastAPI's own page loads its scripts from elsewhere.
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_api_route(
        "/metrics",
        _metrics,
        tags=["health"],
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
    )
    app.mount("/static", _Static(directory=STATIC), name="static")
