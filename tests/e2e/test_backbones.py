"""A few pictures in folders and the default backbone, by the commands that a user types."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import secondlook
from secondlook.model.networks.backbones import DEFAULT_BACKBONE
from tests.images_for_tests import COLOURS, make_folder, picture


def run(*arguments: object) -> str:
    """What a command prints."""
    done = subprocess.run([sys.executable, "-m", "secondlook", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures") / "train", 5)


def test_pictures_in_folders_are_indexed_and_answered(pictures: Path, tmp_path: Path) -> None:
    run("index", pictures, "--network", DEFAULT_BACKBONE, "--bundles", tmp_path)
    server = secondlook.open(tmp_path)
    assert [server.predict(picture(colour, (40, 36), 7)).label for colour in COLOURS] == list(COLOURS)
    shown = json.loads(run("bundles", "list", "--bundles", tmp_path, "--json").splitlines()[-1])
    assert DEFAULT_BACKBONE in json.dumps(shown)


def test_its_head_answers_where_a_class_map_says_which_classes_are_which(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("blue\t973\ngreen\t339\nred\t949\n")
    root = tmp_path / "root"
    more = ("--class-map", tmp_path / "map.txt", "--head", "network", "--theta", 20, "--lam", 0.5, "--k", "all")
    run("index", pictures, "--network", DEFAULT_BACKBONE, "--bundles", root, *more)
    answer = secondlook.open(root).predict(Image.fromarray(np.full((64, 64, 3), COLOURS["red"], np.uint8)))
    assert answer.network is not None
    assert answer.label in COLOURS


def test_network_shows_it(pictures: Path) -> None:
    shown = run("network", DEFAULT_BACKBONE, "--images", pictures)
    for line in ("224 x 224", "RGB, (x - 127) / 128", "1,000, without names", "pooled, vector 1,280"):
        assert line in shown
    assert "pixels: as those who trained the network published it." in shown
    assert DEFAULT_BACKBONE in run("network", "--help")
