"""``secondlook study suggest`` on a network that tells colours."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from secondlook.cli import cli
from tests.images_for_tests import COLOURS, make_shades
from tests.networks_for_tests import SIDE, colour_backbone, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    written(colour_backbone(), root)
    (root / "right.json").write_text(json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}}))
    make_shades(root / "shades" / "train", per_class=22)
    make_shades(root / "shades" / "test", per_class=5, seed=7)
    make_shades(root / "more" / "train", per_class=3)
    (root / "more" / "train" / "red").rename(root / "more" / "train" / "orange")
    make_shades(root / "more" / "test", per_class=3, seed=7)
    return root


def run(folder: Path, *more: str, photos: str = "shades") -> Any:
    fixed = ("--preprocess", str(folder / "right.json"))
    named = str(folder / "network.onnx"), str(folder / photos)
    return CliRunner().invoke(cli, ["study", "suggest", *named, *fixed, *more])


@pytest.mark.slow
def test_both_orders_are_taught_batch_by_batch_and_asked(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--counts", "3,12,25", "--draws", "3", "--json", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "suggest.json").read_text())
    assert (found["images"], found["pool"], found["classes"], found["batch"]) == (15, 53, 3, 10)
    assert {rule: len(draws) for rule, draws in found["draws"].items()} == {"random": 3, "suggested": 3}
    for draws in found["draws"].values():
        for points in draws:
            assert [point["labels"] for point in points] == [3, 12, 25]
            assert points[-1]["classes"] == len(COLOURS)
            assert points[-1]["head"] > 60
            assert points[-1]["cache"] > 60
    assert (tmp_path / "suggest.png").is_file()
    again = json.loads(run(folder, "--counts", "3,12,25", "--draws", "3", "--json").stdout)
    assert again["draws"] == found["draws"]


def test_tables_are_for_people(folder: Path) -> None:
    result = run(folder, "--counts", "4", "--draws", "2")
    assert result.exit_code == 0, result.output
    assert "a linear head, 15 test photos, % right" in result.stdout
    assert "the cache, 15 test photos" in result.stdout


def test_wrong_usage_is_named(folder: Path) -> None:
    for photos, more, sentence in (
        ("shades", ("--counts", "60"), "ask for fewer labels than 60"),
        ("shades", ("--counts", "x"), "no list of numbers"),
        ("more", ("--counts", "4"), "test photos of red, and none to learn it from"),
    ):
        result = run(folder, *more, photos=photos)
        assert result.exit_code in (1, 2)
        assert sentence in result.output + str(result.exception)
