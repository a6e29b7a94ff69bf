"""``secondlook study preprocessing`` on a network that tells colours."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from secondlook.cli import cli
from tests.images_for_tests import COLOURS, make_shades
from tests.networks_for_tests import SIDE, colour_classifier, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its preprocessing, and photos."""
    root = tmp_path_factory.mktemp("study")
    written(colour_classifier(COLOURS), root)
    (root / "right.json").write_text(json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}}))
    make_shades(root / "shades")
    return root


def run(folder: Path, *more: str) -> Any:
    fixed = ("--preprocess", str(folder / "right.json"), "--images", "40,80", "--draws", "10")
    arguments = ["study", "preprocessing", str(folder / "network.onnx"), str(folder / "shades"), *fixed, *more]
    return CliRunner().invoke(cli, arguments)


def test_mistakes_are_caught_and_the_right_one_is_not_refused(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--json", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "preprocessing.json").read_text())
    told = {(one["judges"], one["mistake"], one["images"]): one for one in found["tallies"]}
    assert {judges for judges, _, _ in told} == {
        "with a matching head", "no class of the head's matches", "without a head"
    }  # fmt: skip
    # x/255 is right here, and an image of the network's size looks the same however it is fitted.
    assert {mistake for _, mistake, _ in told} == {
        "none: the right one", "BGR", "0..255", "ImageNet's mean and std", "these and BGR"
    }  # fmt: skip
    for one in told.values():
        assert one["named"] <= one["beaten"] <= found["draws"] == 10
    for images in (40, 80):
        assert told["with a matching head", "none: the right one", images]["beaten"] == 0
        for mistake in ("BGR", "0..255"):
            assert told["with a matching head", mistake, images]["beaten"] == 10


def test_tables_say_which_judges(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert " ".join(result.stdout.split()).count("refused, in % of draws") == 3
    assert "80 images" in result.stdout


def test_wrong_usage_is_named(folder: Path) -> None:
    for more, sentence in (
        (("--images", "40,x"), "no list of numbers"),
        (("--images", "900"), "give fewer with --images"),
        (("--split", "val"), "no val/"),
    ):
        result = run(folder, *more)
        assert result.exit_code in (1, 2)
        assert sentence in result.output + str(result.exception)
