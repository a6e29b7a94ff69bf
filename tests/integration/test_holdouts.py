"""Which images parameters are fitted on, as commands are told it and bundles tell it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from secondlook.cli import cli
from secondlook.indexer.datasets.looks import LOOKS, CachedLooks
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.manifest import Manifest
from secondlook.model.networks.file import load_network, save_network
from tests.images_for_tests import make_folder
from tests.service_for_tests import copy_root


@pytest.fixture(scope="module")
def network(tiny_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, of which nobody knows what it was trained on."""
    path = tmp_path_factory.mktemp("unknown") / "network.safetensors"
    file = load_network(tiny_network)
    save_network(file.network, path, classes=file.class_names, trained_on="somewhere else")
    return path


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the splits train, valid and test; no image is in two."""
    folder = tmp_path_factory.mktemp("splits") / "colours"
    made = make_folder(folder.parent / "all", per_class=40)
    for place, name in enumerate(("train", "valid", "test")):
        for label in ("blue", "green", "red"):
            (folder / name / label).mkdir(parents=True)
            for i in range((0, 20, 30)[place], (20, 30, 40)[place]):
                shutil.copy(made / label / f"{i:03d}.png", folder / name / label)
    return folder


def run(*options: object) -> Result:
    return CliRunner().invoke(cli, [str(option) for option in options])


def index(root: Path, dataset: Path, network: Path, *options: object) -> Manifest:
    done = run("index", dataset, "--bundles", root, "--network", network, "--recipe", "small", *options)
    assert done.exit_code == 0, done.output
    return read_manifest(root, active_generation(root))


def test_a_split_for_validation_is_taken_by_itself(splits: Path, network: Path, tmp_path: Path) -> None:
    manifest = index(tmp_path, splits, network)
    assert manifest.parameters_from == "holdout"
    assert manifest.holdout is not None
    assert (manifest.holdout.name, manifest.holdout.images, manifest.holdout.honest) == ("colours val", 30, True)
    assert manifest.fit is not None
    assert manifest.fit.entries == 60  # all of them voted: none is in that split
    assert manifest.calibration is not None


def test_a_bundle_without_an_honest_holdout_is_repaired(splits: Path, network: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    done = run("index", splits / "train", "--bundles", root, "--network", network, "--recipe", "small")
    assert done.exit_code == 0, done.output
    first = read_manifest(root, active_generation(root))
    assert (first.parameters_from, first.lam, first.calibration) == ("leave-one-out", 0.5, None)
    assert first.network.trained_on_these == "unknown"
    assert first.holdout is not None
    assert first.holdout.honest is False
    assert "no honest holdout" in done.output
    assert "give --holdout" in done.output
    done = run("fit", "--bundles", root, "--holdout", splits / "valid")
    assert done.exit_code == 0, done.output
    assert "of 30 held-out images" in done.output.replace("on 30", "of 30")
    assert "30 images are too few to promise sets of 95 %, 99 %" in done.output
    second = read_manifest(root, active_generation(root))
    assert second.generation != first.generation
    assert second.parameters_from == "holdout"
    assert second.calibration is not None
    assert second.files["keys.faiss"] == first.files["keys.faiss"]
    for part, images in (("valid", 30), ("test", 0)):
        said = run("evaluate", splits / part, "--bundles", root, "--json")
        assert said.exit_code == 0, said.output
        assert json.loads(said.output.splitlines()[-1])["in_holdout"] == images
        assert ("Warning: the parameters were fitted on 30 of these images" in said.output) == (images > 0)


def test_a_rebuild_keeps_the_holdout_that_a_bundle_was_given(splits: Path, network: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    index(root, splits / "train", network, "--holdout", splits / "valid")
    done = run("index", splits / "train", "--bundles", root)  # as the page's rebuild does
    assert done.exit_code == 0, done.output
    manifest = read_manifest(root, active_generation(root))
    assert manifest.parameters_from == "holdout"
    assert manifest.holdout is not None
    assert (manifest.holdout.name, manifest.holdout.images) == ("valid train", 30)
    # Once they are cached themselves, they are none.
    done = run("index", splits / "valid", "--bundles", root)
    assert done.exit_code == 0, done.output
    assert read_manifest(root, active_generation(root)).parameters_from == "leave-one-out"


def test_what_the_user_says_of_the_network_is_taken(splits: Path, network: Path, tmp_path: Path) -> None:
    new = index(tmp_path / "new", splits / "train", network, "--trained", "no")
    assert (new.parameters_from, new.network.trained_on_these) == ("holdout", "no")
    assert new.holdout is not None
    assert new.holdout.images == 6
    by_heart = index(tmp_path / "by-heart", splits / "train", network, "--trained", "yes")
    assert (by_heart.parameters_from, by_heart.network.trained_on_these) == ("leave-one-out", "yes")
    looks = CachedLooks.read(tmp_path / "by-heart" / by_heart.generation / LOOKS)
    assert looks is not None
    assert looks.fitted is not None
    assert (len(looks.looks), len(looks.fitted)) == (60, 60)


def test_a_network_trained_here_knows_on_what(splits: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.safetensors"
    trained = run(*("train", splits / "train", "--out", out, "--depth", 20, "--epochs", 1, "--device", "cpu"))
    assert trained.exit_code == 0, trained.output
    file = load_network(out)
    assert file.trained is not None
    assert len(file.trained) == 54
    same = index(tmp_path / "same", splits / "train", out)
    assert (same.parameters_from, same.network.trained_on_these) == ("holdout", "yes")
    other = index(tmp_path / "other", splits / "test", out)
    assert (other.parameters_from, other.network.trained_on_these) == ("holdout", "no")
    again = run("index", splits / "train", "--bundles", tmp_path / "other", "--no-activate", "--progress", "json")
    made = read_manifest(tmp_path / "other", json.loads(again.output.splitlines()[-1])["generation"])
    assert made.network.trained_on_these == "yes"  # told by the bundle's encoder too


def test_cached_images_in_a_holdout_are_left_out_and_said(splits: Path, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "overlapping"
    shutil.copytree(splits / "valid", folder)
    for label in ("blue", "red"):
        shutil.copy(splits / "train" / label / "003.png", folder / label / "copy.png")
    done = run(
        *("index", splits / "train", "--bundles", tmp_path / "b", "--network", network, "--recipe", "small"),
        *("--holdout", folder),
    )
    assert done.exit_code == 0, done.output
    assert f"2 images of {folder.name} " in done.output
    manifest = read_manifest(tmp_path / "b", active_generation(tmp_path / "b"))
    assert manifest.holdout is not None
    assert (manifest.holdout.images, manifest.holdout.left_out) == (30, 2)


@pytest.mark.parametrize(
    ("options", "sentence", "status"),
    [
        (["--holdout", "val", "--theta", "9", "--lam", "1", "--k", "3"], "--theta, --lam and --k", 2),
        (["--holdout", "nowhere"], "there is no dataset 'nowhere'", 1),
        (["--holdout", "train"], "are in the cache", 1),
        (["--holdout", "test", "--trained", "perhaps"], "'perhaps' is not one of", 2),
    ],
)
def test_a_holdout_that_cannot_be_is_refused(
    options: list[str], sentence: str, status: int, splits: Path, network: Path, tmp_path: Path
) -> None:
    done = run("index", splits, "--bundles", tmp_path, "--network", network, "--recipe", "small", *options)
    assert done.exit_code == status or done.exception is not None
    assert sentence in f"{done.output} {done.exception}"
    assert not (tmp_path / "CURRENT").exists()


def test_a_manifest_of_version_2_says_where_its_parameters_are_from(tiny_bundle: Path, tmp_path: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "old")
    path = root / active_generation(root) / "manifest.json"
    written = json.loads(path.read_text()) | {"schema_version": 2}
    for added in ("parameters_from", "holdout"):
        del written[added]
    del written["network"]["trained_on_these"]
    for trained_on, honest in (("colours train less holdout", True), ("imported from somewhere", None)):
        written["network"]["trained_on"] = trained_on
        path.write_text(json.dumps(written))
        manifest = open_bundle(root).manifest
        assert manifest.parameters_from == "holdout"
        assert manifest.holdout is not None
        assert (manifest.holdout.images, manifest.holdout.honest) == (6, honest)
    path.write_text(json.dumps(written | {"fit": None}))
    assert open_bundle(root).manifest.parameters_from == "given"


def test_a_damaged_record_of_what_was_trained_on_is_named(splits: Path, tiny_network: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    manifest = index(root, splits / "train", tiny_network)
    assert np.load(root / manifest.generation / "trained.npy").tolist() == []
    (root / manifest.generation / "trained.npy").write_bytes(b"nothing")
    done = run("bundles", "verify", "--bundles", root)
    assert "trained.npy has 7 bytes" in str(done.exception)


def test_of_a_large_holdout_some_are_asked_and_that_is_said(
    splits: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.indexer.fitting.honest_holdout.MOST_HELD", 12)
    held = index(tmp_path, splits, network).holdout
    assert held is not None
    assert held.images == 12
    assert "12 of its 30 were asked" in held.why
    assert open_bundle(tmp_path).manifest.calibration is not None
    looks = CachedLooks.read(tmp_path / active_generation(tmp_path) / LOOKS)
    assert looks is not None
    assert looks.fitted is not None
    assert len(looks.fitted) == 12
