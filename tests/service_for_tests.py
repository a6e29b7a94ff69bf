"""An application in a thread of its own, and calls to it."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import anyio.from_thread
import httpx
from fastapi import FastAPI

from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import FEATURES
from secondlook.model.bundles.root import active_generation
from secondlook.service import app as application
from secondlook.service.settings import Settings

Call = Callable[..., httpx.Response]
KEY = "a key for tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
PROGRAM = (sys.executable, "-P", "-m", "secondlook")


def create_app(settings: Settings, predictor: Predictor | None = None) -> FastAPI:
    """An application that starts rebuilds as the installed one does."""
    return application.create_app(settings, PROGRAM, predictor=predictor)


def settings(**given: Any) -> Settings:
    """Settings that the environment of the tests does not touch."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    with mock.patch.dict(os.environ, clean, clear=True):
        return Settings(**given)


@contextmanager
def serving(app: FastAPI) -> Iterator[Call]:
    """Start the app, and yield ``call(method, path, ...)``."""

    async def request(method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
    ):
        yield lambda method, path, **options: portal.call(partial(request, method, path, **options))


def open_predictor(root: Path) -> Predictor:
    """The active bundle's."""
    return Predictor(open_bundle(root, threads=1))


def copy_root(root: Path, target: Path) -> Path:
    """A root that a test may write to, in which nothing was embedded before."""
    return Path(shutil.copytree(root, target, ignore=shutil.ignore_patterns(FEATURES)))


def add_generation(root: Path, generation: str = "20990101T000000Z-abcd", **changed: Any) -> str:
    """A copy of the active bundle under another id, its manifest changed."""
    folder = Path(shutil.copytree(root / active_generation(root), root / generation))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"generation": generation} | changed))
    return generation


def files(*uploads: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Images as the multipart field that the server reads."""
    return [("file", upload) for upload in uploads]


def answering(call: Call) -> str:
    """Which generation answers."""
    generation: str = call("GET", "/v1/model").json()["generation"]
    return generation


def eventually(condition: Callable[[], bool], patience: float = 60.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def teach(call: Call, label: str | None, *contents: bytes, **options: Any) -> httpx.Response:
    """Teach images under a label."""
    data = {} if label is None else {"label": label}
    headers = ADMIN | options.pop("headers", {})
    sent = files(*((f"{i}.png", content) for i, content in enumerate(contents)))
    return call("POST", "/v1/entries", files=sent, data=data, headers=headers, **options)


def look(call: Call, content: bytes, query: str = "neighbors=3&top=10") -> Any:
    """The answer on one image."""
    return call("POST", f"/v1/predict?{query}", files=files(("a.png", content))).json()["predictions"][0]


def model(call: Call) -> Any:
    """What is told of the model."""
    return call("GET", "/v1/model").json()


def problem(response: httpx.Response, status: int, slug: str) -> str:
    """Check that an answer is that problem; its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:secondlook:problem:{slug}"
    detail: str = body["detail"]
    assert detail.endswith((".", "…"))
    return detail
