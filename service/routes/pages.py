"""The pages for people, from ``static/``, in which nothing comes from another address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from secondlook.service.prefix import link

STATIC = Path(__file__).parents[1] / "static"
# Modules of two versions do not fit together: whether there is a newer one is asked each time.
FRESH = {"Cache-Control": "no-cache"}


def _whole(scope: Scope) -> Scope:
    """The same call for all of a file: they are small, and the answer to a range that is wrong would be plain text."""
    return {**scope, "headers": [field for field in scope["headers"] if field[0] != b"range"]}


class _Page(FileResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(_whole(scope), receive, send)


class _Static(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(_whole(scope), receive, send)

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(FRESH)
        return response


async def _home() -> FileResponse:
    return _Page(STATIC / "index.html", headers=FRESH)


async def _docs() -> FileResponse:
    return _Page(STATIC / "docs.html", headers=FRESH)


async def _openapi(request: Request) -> JSONResponse:
    """The document, which says where the server is: below the prefix that the client sees."""
    return JSONResponse({**request.app.openapi(), "servers": [{"url": link("") or "/"}]})


def install(app: FastAPI) -> None:
    """Serve the pages."""
    app.add_api_route("/", _home, include_in_schema=False)
    # FastAPI's own page loads its scripts from elsewhere.
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_route("/openapi.json", _openapi, include_in_schema=False)
    app.mount("/static", _Static(directory=STATIC), name="static")
