"""The pages for people, from ``static/``: nothing in them comes from another address."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"


async def _home() -> FileResponse:
    return FileResponse(STATIC / "index.html")


async def _docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html")


def install(app: FastAPI) -> None:
    """Serve the pages."""
    app.add_api_route("/", _home, include_in_schema=False)
    # FastAPI's own page loads its scripts from elsewhere.
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
