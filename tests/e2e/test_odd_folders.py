"""Folders as people have them, through the commands and a server's rebuild: nothing hangs, is lost, or goes unsaid."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import active_generation
from tests.e2e.conftest import KEY, Server, until
from tests.images_for_tests import make_folder, make_image

Serve = Callable[..., Server]
ADMIN = {"Authorization": f"Bearer {KEY}"}
SAID = (
    "left out: 1 damaged (red/half.png), 1 empty (red/empty.png), 2 not an image (red/notes.txt, red/text.png), "
    "1 in no class folder (loose.png), 1 special file (red/pipe.png), 1 broken link (red/gone.png), "
    "1 linked twice (red/again/), 2 hidden or system (.git/, red/._a.png)"
)
COUNTS = {
    **{"damaged": 1, "empty": 1, "not an image": 2, "in no class folder": 1, "special file": 1, "broken link": 1},
    **{"linked twice": 1, "hidden or system": 2},
}


def secondlook(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "secondlook", *map(str, arguments)]
    # As in a terminal that has no UTF-8.
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=plain)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twenty images, and in one of them whatever may be there."""
    folder = make_folder(tmp_path_factory.mktemp("odd") / "colours", per_class=20)
    red = folder / "red"
    (folder / ".git").mkdir()
    os.mkfifo(red / "pipe.png")
    (red / "again").symlink_to(".")
    (red / "gone.png").symlink_to("nowhere")
    (red / "half.png").write_bytes(make_image("red")[:300])
    for name in ("red/._a.png", "red/empty.png"):
        (folder / name).touch()
    for name in ("red/notes.txt", "red/text.png"):
        (folder / name).write_text("no image")
    (folder / "loose.png").write_bytes(make_image("red"))
    for i, name in enumerate((b"gr\xfcn.png", b"a\nb", "\u202e\U0001f308.jfif".encode())):
        with open(os.fsencode(red) + b"/" + name, "wb") as file:
            file.write(make_image("red", format="JPEG", seed=100 + i))
    return folder


def test_commands_tell_what_they_left_out(odd: Path, tmp_path: Path) -> None:
    network, root = tmp_path / "network.safetensors", tmp_path / "bundles"
    options = ("--depth", 20, "--epochs", 1, "--batch-size", 16, "--lr", 0.02)
    trained = secondlook("train", odd, "--out", network, *options, "--left-out", tmp_path / "left.csv", "--json")
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.splitlines()[-1] == SAID
    assert json.loads(trained.stdout)["left_out"] == COUNTS
    with (tmp_path / "left.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows if row["reason"] == "special file"] == ["red/pipe.png"]
    assert len(rows) == 10

    indexed = secondlook("index", odd, "--bundles", root, "--network", network, "--left-out", tmp_path / "left.json")
    assert indexed.returncode == 0, indexed.stderr
    assert indexed.stderr.splitlines()[-1] == SAID
    assert "keys are reduced to" in indexed.stderr
    bundle = open_bundle(root)
    assert bundle.manifest.dataset.left_out == COUNTS
    assert (bundle.manifest.dataset.images, bundle.store.count) == (63, 63)
    assert {r"red/gr\xfcn.png", r"red/a\x0ab", "red/\\u202e\U0001f308.jfif"} <= set(bundle.entries.sources())
    assert json.loads((tmp_path / "left.json").read_text())["left_out"] == COUNTS

    again = secondlook("index", odd, "--bundles", root, "--progress", "json", "--no-activate")
    assert again.returncode == 0, again.stderr
    *lines, last = map(json.loads, again.stdout.splitlines())
    assert last["left_out"] == COUNTS
    named = [line["left_out"] for line in lines if "left_out" in line]
    assert {"file": "red/pipe.png", "reason": "special file", "why": "special file"} in named

    evaluated = secondlook("evaluate", odd, "--split", "train", "--bundles", root, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    told = json.loads(evaluated.stdout)
    assert (told["count"], told["left_out"]) == (63, COUNTS)
    assert evaluated.stderr.splitlines()[-1] == SAID

    classified = secondlook("classify", odd / "red", "--bundles", root, "--lam", 1, "--out", tmp_path / "found.csv")
    assert classified.returncode == 1
    *_, failed, counted = classified.stderr.splitlines()
    assert failed.endswith("text.png: the file is not one of JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC")
    assert counted.startswith("left out: 1 damaged (")
    with (tmp_path / "found.csv").open() as file:
        found = {row["file"].removeprefix(f"{odd}/red/"): row for row in csv.DictReader(file)}
    assert found[r"gr\xfcn.png"]["label"] == found["001.png"]["label"] == "red"
    assert {name: row["left_out"] for name, row in found.items() if row["left_out"]} == {
        **{"half.png": "damaged", "empty.png": "empty", "text.png": "not an image", "notes.txt": "not an image"},
        **{"pipe.png": "special file", "gone.png": "broken link", "again/": "linked twice"},
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("index", "{folder}", "--bundles", "{folder}/b", "--left-out", "x.txt"),
            "a name that ends with .csv or .json",
        ),
        (("index", "{folder}", "--bundles", "{folder}/b"), "cat has no images (its folder is empty): add some"),
        (("train", "{folder}", "--out", "{folder}/n.safetensors"), "cat has no images (its folder is empty)"),
        (("evaluate", "{folder}", "--split", "val"), "has no val/ with class folders"),
    ],
)
def test_what_is_refused_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    folder = make_folder(tmp_path / "colours", per_class=3)
    (folder / "cat").mkdir()
    ended = secondlook(*(argument.format(folder=folder) for argument in arguments))
    assert ended.returncode in (1, 2)
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_rebuild_never_activates_a_class_without_images(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    folder = make_folder(tmp_path / "data" / "photos", per_class=20)
    for path in (folder / "green").iterdir():
        path.write_bytes(b"no image")
    server, before = serve(bundles=root, data=tmp_path / "data", admin_key=KEY), active_generation(root)

    def rebuilt() -> dict[str, str]:
        asked = {"dataset": "photos", "force": True}
        started = httpx.post(f"{server.url}/v1/admin/rebuild", json=asked, headers=ADMIN, timeout=30)
        assert started.status_code == 202, started.text
        address = server.url + started.headers["Location"]
        until(lambda: httpx.get(address, headers=ADMIN).json()["state"] != "running")
        found: dict[str, str] = httpx.get(address, headers=ADMIN).json()
        return found

    failed = rebuilt()
    assert failed["state"] == "failed"
    assert failed["error"].startswith("green has no images (20 not an image (green/000.png, ")
    assert active_generation(root) == before

    # Under any name: what counts is what is in a file.
    for i, path in enumerate((folder / "green").iterdir()):
        path.unlink()
        path.with_suffix(".jfif" if i % 2 else "").write_bytes(make_image("green", format="JPEG", seed=i))
    (folder / "red" / "half.png").write_bytes(make_image("red")[:300])
    assert rebuilt()["state"] == "succeeded"
    dataset = open_bundle(root).manifest.dataset
    assert (dataset.images, dataset.left_out) == (60, {"damaged": 1})


def test_a_rebuild_takes_what_the_server_takes(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    folder = make_folder(tmp_path / "data" / "photos", per_class=20)
    (folder / "red" / "large.png").write_bytes(make_image("red", (41, 41)))
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY, max_pixels=40 * 40)
    asked = httpx.post(f"{server.url}/v1/admin/rebuild", json={"dataset": "photos", "force": True}, headers=ADMIN)
    address = server.url + asked.headers["Location"]
    until(lambda: httpx.get(address, headers=ADMIN).json()["state"] == "succeeded")
    assert open_bundle(root).manifest.dataset.left_out == {"too large": 1}
