"""``secondlook start`` without photos: it knows nothing, is taught while it answers, and learns from that for good."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import until
from tests.e2e.starting import label, report, started
from tests.images_for_tests import make_folder, make_image


def teach(client: httpx.Client, colour: str, *seeds: int) -> Any:
    files = [("file", (f"{seed}.png", make_image(colour, seed=seed))) for seed in seeds]
    taught = client.post("/v1/entries", files=files, data={"label": colour})
    assert taught.status_code == 201, taught.text
    return taught.json()


def rebuild(client: httpx.Client) -> Any:
    """The job, when it is over."""
    job = client.post("/v1/admin/rebuild")
    assert job.status_code == 202, job.text
    at = job.headers["Location"]
    until(lambda: client.get(at).json()["state"] != "running", 240)
    return client.get(at).json()


def test_it_begins_with_nothing_and_knows_what_it_is_taught(backbone: Path, home: dict[str, str]) -> None:
    with started(home, "--network", backbone, end=signal.SIGKILL) as client:
        said = (Path(home["XDG_DATA_HOME"]).parent / "start.log").read_text()
        assert "it knows nothing yet: choose photos of one thing on the page" in said
        model = client.get("/v1/model").json()
        assert (model["classes"], model["entries"], model["head"], model["teachable"]) == ([], 0, "none", True)
        refused = client.post("/v1/predict", files={"file": make_image("red")})
        assert refused.status_code == 409
        assert refused.headers["content-type"] == "application/problem+json"
        problem = refused.json()
        assert problem["type"] == "urn:secondlook:problem:nothing-taught"
        assert problem["detail"].startswith("nothing is known yet: teach images of a first class")
        assert client.post("/v1/search", files={"file": make_image("red")}).json()["results"][0]["neighbors"] == []
        assert client.post("/v1/embed", files={"file": make_image("red")}).json()["dim"] == model["store"]["dim"]
        first = teach(client, "red", 1, 2, 3)
        assert [one["before"] for one in first["entries"]] == [None] * 3
        assert (first["is_new_class"], first["index"]) == (True, 0)
        assert label(client, make_image("red", seed=8)) == "red"
        teach(client, "blue", 1)
        assert label(client, make_image("blue", seed=8)) == "blue", "known by one image, at once"
        teach(client, "blue", 2, 3)
        assert label(client, make_image("red", seed=9)) == "red"

    with started(home, end=signal.SIGKILL) as client:
        assert "taught so far: 6 images of 2 classes" in (Path(home["XDG_DATA_HOME"]).parent / "start.log").read_text()
        assert client.get("/v1/model").json()["generation"] == model["generation"], "it goes on"
        for colour in ("red", "blue"):
            assert label(client, make_image(colour, seed=10)) == colour
        job = rebuild(client)
        assert job["state"] == "succeeded", job
        rebuilt = client.get("/v1/model").json()
        assert (rebuilt["head"], rebuilt["classes"], rebuilt["network_classes"]) == ("linear", ["red", "blue"], 2)
        assert (rebuilt["dataset"]["images"], rebuilt["dataset_classes"], rebuilt["taught"]["images"]) == (6, 0, 0)
        for colour in ("red", "blue"):
            assert label(client, make_image(colour, seed=11)) == colour
        teach(client, "green", 1)
        assert label(client, make_image("green", seed=8)) == "green"

    with started(home, end=signal.SIGKILL) as client:
        assert client.get("/v1/model").json()["generation"] == rebuilt["generation"]
        for colour in ("red", "blue", "green"):
            assert label(client, make_image(colour, seed=12)) == colour


def test_an_index_of_what_was_taught_takes_the_place_of_no_other(
    backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    photos, root = make_folder(tmp_path / "photos", per_class=3), tmp_path / "bundles"
    assert report(home, photos, "--network", backbone, "--bundles", root)["images"] == 9
    ended = run("index", "--bundles", root)
    assert ended.returncode == 2
    assert "name DATASET: the active bundle caches photos" in ended.stderr
    ended = run("start", "--bundles", root, "--network", backbone, "--no-serve")
    assert ended.returncode == 1
    assert f"{root} has an index of photos: name its folder too" in ended.stderr
    assert report(home, "--bundles", root)["next"] == [
        "it knows 9 images of photos: ask about a new one; where an answer is wrong, say so"
    ]
    ended = run("index", "--bundles", tmp_path / "new")
    assert ended.returncode == 1
    assert "what was taught has no classes of its own, but the network knows airplane" in ended.stderr
    ended = run("classify", make_folder(tmp_path / "more", per_class=1) / "red", "--bundles", begun(backbone, home))
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: nothing is known yet: teach images of a first class")


def begun(backbone: Path, home: dict[str, str]) -> Path:
    """A root that knows nothing."""
    return Path(report(home, "--network", backbone)["bundles"])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "secondlook", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)
