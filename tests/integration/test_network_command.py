"""``secondlook network``: what it understands, and what labelled images say of a network's preprocessing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from secondlook.commands.network import network
from secondlook.indexer.fitting.preprocessing import candidates
from secondlook.indexer.fitting.race import CLEARLY, Need, decide
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic
from secondlook.model.networks.proof import PreprocessProof
from tests.images_for_tests import COLOURS, make_shades
from tests.networks_for_tests import SIDE, colour_classifier, written


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells blue, green and red by how far the mean of x/255 is from each."""
    model = colour_classifier({name: COLOURS[name] for name in sorted(COLOURS)})
    return written(model, tmp_path_factory.mktemp("networks"), "colours")


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours between two of those, each of the class that is nearer: 30 images a class, hardly two alike."""
    return make_shades(tmp_path_factory.mktemp("datasets") / "shades")


def declared(folder: Path, **arithmetic: Any) -> str:
    path = folder / "preprocess.json"
    path.write_text(json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": arithmetic}))
    return str(path)


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(network, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_what_was_understood_is_said(colours: Path, tmp_path: Path) -> None:
    said = run(str(colours))
    assert said["classes"] == ["blue", "green", "red"]
    assert said["input"] == {
        "name": "image", "size": [SIDE, SIDE], "layout": "NCHW", "dtype": "float32", "batch_was": None,
        "resizes_inside": False,
    }  # fmt: skip
    assert said["preprocess"]["read_from"] is None
    assert said["default"]["layer"] in [layer["name"] for layer in said["layers"]]
    assert said["proof"] is None
    people = CliRunner().invoke(network, [str(colours), "--preprocess", declared(tmp_path)], catch_exceptions=False)
    assert "read from  preprocess.json" in people.output
    assert "RGB, x/255" in people.output


@pytest.mark.parametrize("arithmetic", [{}, {"channels": "BGR"}, {"scale": 1.0}], ids=["right", "BGR", "0..255"])
def test_the_head_says_which_arithmetic_is_right(
    arithmetic: dict[str, Any], colours: Path, shades: Path, tmp_path: Path
) -> None:
    said = run(str(colours), "--images", str(shades), "--preprocess", declared(tmp_path, **arithmetic))
    proof = said["proof"]
    assert (proof["by"], said["matched"]["how"]) == (["head", "table", "neighbours"], "exact")
    first, *others = proof["arithmetic"]
    assert first["said"] == "declared"
    if arithmetic:
        assert proof["answer"] == "beaten"
        better = proof["better"]["preprocess"]["arithmetic"]
        assert better["channels"] == "RGB"
        assert better["scale"] == pytest.approx(1 / 255)
    else:
        assert proof["answer"] != "beaten"
        assert proof["better"] is None
        assert all(other["behind"] > 3 for other in others if other["preprocess"]["arithmetic"]["channels"] == "BGR")


def test_the_better_one_is_written_and_then_confirmed(colours: Path, shades: Path, tmp_path: Path) -> None:
    wrong, better = declared(tmp_path, channels="BGR"), tmp_path / "better.json"
    asked = [str(colours), "--images", str(shades), "--write-preprocess", str(better), "--preprocess"]
    said = run(*asked, wrong)["proof"]["better"]["preprocess"]
    assert json.loads(better.read_text()) == {name: said[name] for name in ("geometry", "arithmetic", "mirrored")}
    again = CliRunner().invoke(network, [*asked, str(better)])
    assert "is there already" in str(again.exception)
    assert run(*asked[:3], "--preprocess", str(better))["proof"]["answer"] != "beaten"


def test_none_declared_takes_the_best(colours: Path, shades: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    said = run(str(colours), "--images", str(shades), "--write-preprocess", str(best))
    assert said["preprocess"]["read_from"] is None
    proof = PreprocessProof.model_validate(said["proof"])
    assert proof.arithmetic[0].said == "assumed"
    assert proof.refusal("x") is None
    assert json.loads(best.read_text())["arithmetic"]["mean"] == [0.0, 0.0, 0.0]
    assert proof.best.read_from == f"measured on {proof.images} images"


def test_neighbours_speak_where_no_class_matches(colours: Path, colour_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "renamed"
    other.mkdir()
    for name in COLOURS:
        (other / f"thing {name}").symlink_to(colour_folder / name)
    said = run(str(colours), "--images", str(other), "--preprocess", declared(tmp_path))
    assert said["matched"] is None
    assert said["proof"]["by"] == ["table", "neighbours"]
    mapped = tmp_path / "map.txt"
    mapped.write_text("".join(f"thing {name}\t{name}\n" for name in COLOURS))
    said = run(
        *(str(colours), "--images", str(other), "--class-map", str(mapped), "--preprocess", declared(tmp_path)),
    )
    assert said["proof"]["by"] == ["head", "table", "neighbours"]


def test_few_images_cannot_tell(colours: Path, colour_folder: Path, tmp_path: Path) -> None:
    wrong = declared(tmp_path, channels="BGR")
    said = run(str(colours), "--images", str(colour_folder), "--count", "9", "--preprocess", wrong)
    assert said["proof"]["answer"] == "cannot tell"


def test_chance_beats_nothing_and_a_difference_does() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        right = random.exponential(1, 50)
        rivals = [right + random.normal(0.1, 0.5, 50) for _ in range(12)]  # hardly worse
        assert decide([right, *rivals], 50, Need(CLEARLY))[0] != "beaten"
    assert decide([right + random.exponential(1, 50), right], 50, Need(CLEARLY)) == ("beaten", 1)
    assert decide([right, right + random.exponential(1, 50)], 50, Need(CLEARLY)) == ("confirmed", 0)


def test_candidates_are_what_people_confuse_and_differ() -> None:
    own = Arithmetic(scale=1, mean=(127.5,) * 3, std=(127.5,) * 3)
    found = candidates(own)
    assert found[0] == ("declared", own)
    said = [name for name, _ in found]
    assert "(x - 127)/128" not in said  # hardly another one
    assert {"declared, but BGR", "ImageNet mean and std", "x/255", "0..255"} <= set(said)
    imagenet = candidates(Arithmetic(mean=IMAGENET_MEAN, std=IMAGENET_STD, layout="NHWC"))
    assert "ImageNet mean and std" not in [name for name, _ in imagenet]
    assert {made.layout for _, made in imagenet} == {"NHWC"}
