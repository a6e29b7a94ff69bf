"""What the OpenAPI document promises, held against a running server by generated requests."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secondlook.service.problems import Kind
from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import make_folder

Serve = Callable[..., Server]
CONFIG = Path(__file__).with_name("schemathesis.toml")


def schemathesis(server: Server, folder: Path, seconds: int, *options: str) -> None:
    """Generated requests, well-formed and not, until the time is over; fails where an answer breaks its promise."""
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run", "--no-color"]
    command += [f"--max-time={seconds}", "--continue-on-failure", "--no-shrink", "--report-dir", str(folder)]
    command += ["--header", f"Authorization: Bearer {KEY}", "--request-timeout=30", "--warnings=off", *options]
    result = subprocess.run(
        [*command, f"{server.url}/openapi.json"],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout[-20_000:] + result.stderr[-5_000:]
    assert result.returncode == 0, said
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None, said
    assert int(generated.group(1)) > 100
    assert '"level": "ERROR"' not in server.log.read_text()
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_generated_requests_find_nothing(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), admin_key=KEY, log="json")
    schemathesis(server, tmp_path, 20, "--seed=1", "--max-examples=10", "--phases=coverage,fuzzing")


def test_a_key_that_is_needed_is_asked_for(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for path, calls in paths.items():
        for method, call in calls.items():
            status = httpx.request(method, server.url + re.sub(r"\{\w+\}", "0", path)).status_code
            assert (status in (401, 403)) == (call.get("security") == [{"HTTPBearer": []}]), (method, path)


def test_every_type_of_problem_is_documented(serve: Serve) -> None:
    document = httpx.get(f"{serve().url}/openapi.json").json()
    for kind in Kind:
        assert f"| `{kind.urn}` | {kind.status} |" in document["info"]["description"]
    calls = [call for methods in document["paths"].values() for call in methods.values()]
    shown = set()
    for call in calls:
        for status, response in call["responses"].items():
            if status.startswith("2"):
                continue
            (media,) = response["content"]
            assert media == "application/problem+json"
            for slug, example in response["content"][media]["examples"].items():
                assert example["value"]["type"] == f"urn:secondlook:problem:{slug}"
                assert example["value"]["status"] == int(status)
                shown.add(slug)
    # A path or a method that there is none of is no call's own answer.
    assert shown == {kind.slug for kind in Kind} - {"method-not-allowed"}


@pytest.mark.soak
def test_generated_requests_find_nothing_for_minutes(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "colours")
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY, log="json")
    schemathesis(server, tmp_path, 180, "--max-examples=200")
