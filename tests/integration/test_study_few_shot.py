"""``secondlook study few-shot`` and ``left-out-classes`` on a network that tells colours."""

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
    """A network, its preprocessing, and photos with a test split."""
    root = tmp_path_factory.mktemp("study")
    written(colour_classifier(COLOURS), root)
    (root / "right.json").write_text(json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}}))
    make_shades(root / "shades" / "train", per_class=22)
    make_shades(root / "shades" / "test", per_class=5, seed=7)
    make_shades(root / "flat", per_class=5)
    return root


def run(folder: Path, study: str, *more: str, photos: str = "shades") -> Any:
    fixed = ("--preprocess", str(folder / "right.json"))
    return CliRunner().invoke(cli, ["study", study, str(folder / "network.onnx"), str(folder / photos), *fixed, *more])


def test_each_number_of_photos_is_drawn_indexed_and_asked(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "few-shot", "--counts", "4,10", "--draws", "2", "--json", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "few-shot.json").read_text())
    assert found["images"] == 5 * len(COLOURS)
    assert {count: len(draws) for count, draws in found["draws"].items()} == {"4": 2, "10": 2}
    for draws in found["draws"].values():
        for one in draws:
            # A network that tells colours tells those of the test photos, and so do the nearest of its keys.
            assert set(one["right_percent"]) == {"network", "mixed", "cache_only"}
            assert one["right_percent"]["network"] == 100
            assert one["right_percent"]["cache_only"] > 90
    assert (tmp_path / "few-shot.png").is_file()


def test_without_a_head_the_cache_answers_alone(folder: Path) -> None:
    result = run(folder, "few-shot", "--counts", "10", "--draws", "1", "--head", "none", "--json")
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["draws"]["10"]
    assert set(one["right_percent"]) == {"mixed", "cache_only"}
    assert one["lam"] == 1


def test_a_class_that_was_left_out_is_taught_again(folder: Path) -> None:
    result = run(folder, "left-out-classes", "--count", "10", "--draws", "1", "--head", "none", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["classes"]
    assert set(found) == set(COLOURS)
    for label, one in found.items():
        assert one["classes"] == [[label]]
        assert one["images"] == 5 * (len(COLOURS) - 1)
    taught = [one["points"][-1]["new"][0] for one in found.values()]
    assert sum(taught) / len(taught) > 80


def test_wrong_usage_is_named(folder: Path) -> None:
    for photos, more, sentence in (
        ("shades", ("--counts", "40"), "has 22 images of"),
        ("shades", ("--counts", "x"), "no list of numbers"),
        ("flat", (), "has no test photos"),
    ):
        result = run(folder, "few-shot", *more, photos=photos)
        assert result.exit_code in (1, 2)
        assert sentence in result.output + str(result.exception)


def test_what_each_draw_would_say_is_said_once(folder: Path) -> None:
    result = CliRunner().invoke(
        cli,
        ["study", "few-shot", str(folder / "network.onnx"), str(folder / "shades"), "--counts", "4", "--draws", "3"],
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("says nowhere how it takes pixels") == 1
