"""``secondlook audit`` on a real bundle."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from secondlook.cli import cli


def run(bundles: Path, *arguments: str, command: tuple[str, ...] = ("audit",)) -> Result:
    return CliRunner().invoke(cli, [*command, "--bundles", str(bundles), *arguments], catch_exceptions=False)


def planted(bundles: Path, *arguments: str) -> Result:
    return run(bundles, *arguments, command=("study", "planted"))


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path, tiny_bundle: Path) -> Path:
    """A bundle, mirrored copies and thumbnails in it, of images one of which lies in the wrong folder."""
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.embedding.encoders import FromBundle
    from secondlook.indexer.index import IndexOptions, index
    from secondlook.model.bundles.root import activate

    place = tmp_path_factory.mktemp("mislabelled")
    shutil.copytree(colour_folder, place / "colours")
    (place / "colours" / "red" / "007.png").rename(place / "colours" / "blue" / "wrong.png")
    shutil.copytree(tiny_bundle, place / "bundles")
    dataset = load(str(place / "colours"))
    generation = index(dataset, place / "bundles", FromBundle(place / "bundles"), IndexOptions(mirror=True))
    activate(place / "bundles", generation)
    return place / "bundles"


def test_an_image_in_the_wrong_folder_is_found_and_shown(mislabelled: Path, tmp_path: Path) -> None:
    ended = run(mislabelled, "--k", "10", "--json", "--out", str(tmp_path / "out"))
    assert ended.exit_code == 0
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["images"], told["entries"], told["k"]) == (60, 120, 10)
    first = told["suspects"]["listed"][0]
    assert (first["source"], first["given"], first["suggested"]) == ("blue/wrong.png", "blue", "red")
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == told
    rows = list(csv.DictReader((tmp_path / "out" / "suspects.csv").read_text().splitlines()))
    assert rows[0]["source"] == "blue/wrong.png"
    assert len(rows) == told["suspects"]["count"]
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.width > 128


def test_tables_name_what_was_found_and_keep_to_the_limit(mislabelled: Path) -> None:
    ended = run(mislabelled, "--k", "3", "--similar", "0.5", "--limit", "2")
    assert ended.exit_code == 0
    for part in ("labels that neighbours doubt", "blue/wrong.png", "of one class", "the first 2", "unused"):
        assert part in ended.stdout


def test_planting_proves_the_audit_without_touching_the_bundle(mislabelled: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in mislabelled.rglob("*") if path.is_file()}
    arguments = ("--seeds", "2", "--k", "10", "--json")
    ended = planted(mislabelled, "--share", "0.1", *arguments, "--out", str(tmp_path))
    assert ended.exit_code == 0
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["planted"] == 6
    assert told["average_precision"]["value"] > 0.8
    assert len(told["curve"]) == 100
    assert json.loads((tmp_path / "planted.json").read_text()) == told
    assert (tmp_path / "planted.png").read_bytes().startswith(b"\x89PNG")
    assert before == {path: path.read_bytes() for path in mislabelled.rglob("*") if path.is_file()}
    by_its_old_name = run(mislabelled, "--plant", "0.1", *arguments)
    assert "`secondlook study planted`" in by_its_old_name.stderr
    assert json.loads(by_its_old_name.stdout) == told


def test_the_holdout_alone_can_be_ranked(mislabelled: Path) -> None:
    ended = planted(
        mislabelled,
        "--share",
        "0.5",
        "--seeds",
        "1",
        "--holdout",
        "--json",
        "--dataset",
        str(mislabelled.parent / "colours"),
    )
    assert ended.exit_code == 0
    assert json.loads(ended.stdout.splitlines()[-1])["images"] == 6
    assert run(mislabelled, "--holdout").exit_code == 2
