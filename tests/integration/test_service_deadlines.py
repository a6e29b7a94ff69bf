"""Calls that would wait for ever: for a disk that is away, for a lock whose holder waits for one."""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from secondlook.model.errors import StoreError, StoreUnreachableError
from secondlook.service.generations.opening import Opener
from tests.images_for_tests import make_image
from tests.service_for_tests import ADMIN, KEY, add_generation, copy_root, create_app, problem, serving, settings


@pytest.fixture
def hang() -> Iterator[Callable[..., Any]]:
    """What does not return before the test is over."""
    over = threading.Event()

    def hung(*_: Any, **__: Any) -> Any:
        over.wait(60)
        raise OSError(errno.EIO, "it went away")

    yield hung
    over.set()


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_root(tiny_bundle, tmp_path / "bundles")


READING = {
    "/v1/admin/generations": "secondlook.service.generations.switching.generations",
    "/v1/admin/jobs": "secondlook.service.generations.records.Records.listing",
    "/v1/admin/jobs/0123456789abcdef": "secondlook.service.generations.records.Records.read",
    "/v1/admin/audit": "secondlook.service.routes.audit.last_audit",
    "/v1/entries": "secondlook.model.added.overlay.Overlay.entry",
    "/v1/entries/3": "secondlook.model.added.overlay.Overlay.entry",
    "/v1/entries/3/thumbnail": "secondlook.model.bundles.entry_table.Entries.thumbnail",
}


def test_what_reads_a_disk_that_hangs_is_answered(
    root: Path, hang: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(create_app(settings(bundles=root, admin_key=KEY, request_timeout_s=0.2))) as call:
        for path, part in READING.items():
            with monkeypatch.context() as patched:
                patched.setattr(part, hang)
                problem(call("GET", path, headers=ADMIN), 503, "too-slow")
            assert call("GET", "/livez").status_code == 200


def test_a_switch_that_hangs_is_answered_and_goes_on(
    root: Path, hang: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = add_generation(root)
    opening, opened = threading.Event(), Opener.open

    def slow(*given: Any) -> Any:
        assert opening.wait(30)
        return opened(*given)

    monkeypatch.setattr(Opener, "open", slow)
    app = create_app(settings(bundles=root, admin_key=KEY, request_timeout_s=0.3), predictor=None)
    opening.set()
    with serving(app) as call:
        opening.clear()
        path = f"/v1/admin/generations/{new}/activate"
        assert "goes on" in problem(call("POST", path, headers=ADMIN), 503, "too-slow")
        assert "goes on" in problem(call("POST", path, headers=ADMIN), 503, "too-slow")  # it waits for the first
        assert call("GET", "/v1/model").json()["generation"] != new
        opening.set()
        for _ in range(200):
            if call("GET", "/v1/model").json()["generation"] == new:
                break
            threading.Event().wait(0.05)
        assert call("GET", "/v1/model").json()["generation"] == new
        assert call("POST", path, headers=ADMIN).status_code == 200


PASSING = [
    StoreUnreachableError("no Milvus server answers at 10.0.0.1:19530"),
    StoreError("the Milvus server at 10.0.0.1:19530 refuses"),
    OSError(errno.EMFILE, "Too many open files", "/secret/path"),
    OSError(errno.ESTALE, "Stale file handle", "/secret/path"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    sqlite3.OperationalError("unable to open database file"),
]
USING = [
    ("GET", "/v1/model", "secondlook.service.routes.model.model_info"),
    ("GET", "/v1/entries", "secondlook.service.routes.entries.entry_info"),
    ("GET", "/v1/entries/3", "secondlook.service.routes.entries.known_entry"),
    ("GET", "/v1/entries/3/thumbnail", "secondlook.service.routes.entries.known_entry"),
    ("POST", "/v1/predict", "secondlook.service.routes.write.prediction"),
    ("PATCH", "/v1/entries/3", "secondlook.service.routes.decide.known_entry"),
    ("DELETE", "/v1/entries/3", "secondlook.service.routes.decide.known_entry"),
    ("GET", "/v1/admin/generations", "secondlook.service.generations.switching.generations"),
    ("GET", "/v1/admin/jobs", "secondlook.service.generations.records.Records.listing"),
    (
        "POST",
        "/v1/admin/generations/20990101T000000Z-abcd/activate",
        "secondlook.service.generations.opening.Opener.open",
    ),
    ("GET", "/metrics", "secondlook.service.metrics.Metrics.publish"),
]


def test_what_is_away_or_short_is_no_fault_of_the_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_generation(root)
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        for (method, path, part), error in product(USING, PASSING):
            options: dict[str, Any] = {"headers": dict(ADMIN)}
            if method == "PATCH":
                options["json"] = {"label": "red"}
            if path == "/v1/predict":
                options |= {"content": make_image("red"), "headers": {"Content-Type": "image/png"}}
            with monkeypatch.context() as patched:
                patched.setattr(part, Mock(side_effect=error))
                answered = call(method, path, **options)
            assert answered.status_code == 503, (method, path, error, answered.text)
            detail = problem(answered, 503, "not-ready")
            assert "10.0.0.1" not in detail
            assert "secret" not in detail
            assert "retry-after" in answered.headers
