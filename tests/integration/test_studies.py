"""``secondlook study`` on a real bundle: each study by its name, and by the option that it was."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from secondlook.cli import cli
from tests.images_for_tests import make_folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(part) for part in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path) -> Path:
    """The images that the tiny bundle caches, as train, and others of the same classes."""
    root = tmp_path_factory.mktemp("photos") / colour_folder.name
    root.mkdir()
    (root / "train").symlink_to(colour_folder)
    make_folder(root / "test", per_class=4)
    return root


@pytest.mark.parametrize(
    ("option", "own", "name"),
    [
        ("curves", (), "curves"),
        ("shift", ("--refill", "12"), "shift"),
        ("doubt", ("--unknown", "noise"), "doubt"),
        ("same", (), "same-picture"),
    ],
)
def test_a_study_has_a_name_of_its_own_and_keeps_its_old_one(
    option: str, own: tuple[str, ...], name: str, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    shared = (photos, "--bundles", tiny_bundle, "--images", 6, *own, "--json")
    study = run("study", name, *shared, "--out", tmp_path)
    assert study.exit_code == 0, study.output
    told = json.loads(study.stdout)
    assert told == json.loads((tmp_path / f"{name}.json").read_text())
    old = run("evaluate", *shared, f"--{option}")
    assert old.exit_code == 0, old.output
    assert f"`secondlook study {name}`" in old.stderr
    by_option = json.loads(old.stdout)[option]
    if option == "curves":  # by layer too, which is a study of its own
        layers = run("study", "layers", *shared)
        assert layers.exit_code == 0, layers.output
        assert by_option.pop("layers") == json.loads(layers.stdout)["layers"] != told.pop("layers") == []
    assert by_option == told


def test_help_names_the_studies_and_evaluate_no_longer_does() -> None:
    studies = run("study", "--help").stdout
    for name in (
        *("curves", "doubt", "gain", "layers", "new-classes", "planted", "preprocessing", "promises", "same-picture"),
        "shift",
    ):
        assert f"  {name} " in studies
    for command, option in (("evaluate", "--doubt"), ("evaluate", "--teach"), ("audit", "--plant")):
        assert option not in run(command, "--help").stdout
    assert "--unknown" not in run("study", "shift", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("study", "doubts"), "No such command 'doubts'"),
        (("study", "shift", "colours", "--unknown", "noise"), "No such option '--unknown'"),
        (("evaluate", "colours", "--unknown", "noise"), "--unknown goes with --doubt"),
        (("audit", "--holdout"), "--holdout goes with --plant"),
    ],
)
def test_wrong_usage_is_named(arguments: tuple[str, ...], sentence: str) -> None:
    ended = run(*arguments)
    assert ended.exit_code == 2
    assert sentence in ended.output
