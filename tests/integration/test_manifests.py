"""Manifests of this version and of older ones, on bundles that open."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import encoder_id
from secondlook.model.bundles.root import (
    active_generation,
)
from secondlook.model.errors import BundleError
from secondlook.model.images import Geometry
from secondlook.model.manifest import Manifest
from secondlook.model.networks.preprocess import CIFAR


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def folder(root: Path) -> Path:
    return root / active_generation(root)


def test_a_manifest_is_written_with_the_fields_that_it_was_read_with() -> None:
    (path,) = default_root().glob("*/manifest.json")
    content = json.loads(path.read_text())
    assert content["store"]["search"]["quick"]
    assert content["truncation"]
    content["preprocess"] = json.loads(CIFAR.model_dump_json())
    del content["input"]  # what was said in its place
    network = content["network"]
    network["name"] = network.pop("arch")
    assert network.pop("variant") == "standard"  # which the network's own file says too
    written = json.loads(Manifest.model_validate(content).model_dump_json())
    assert _part(written, content) == content
    assert "taught" in written


@pytest.mark.parametrize("version", [2, 3])
def test_a_manifest_that_says_only_the_size_of_images_is_of_the_cifar_family(root: Path, version: int) -> None:
    before, images = open_bundle(root), np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    content = json.loads((folder(root) / "manifest.json").read_text())
    del content["preprocess"]
    content |= {"schema_version": version, "input": {"height": 32, "width": 32, "resize": "cover-bicubic"}}
    (folder(root) / "manifest.json").write_text(json.dumps(content))
    bundle = open_bundle(root)
    assert bundle.manifest.preprocess == CIFAR
    assert bundle.geometry == Geometry.covering(32, 32)
    assert "input" not in json.loads(bundle.manifest.model_dump_json())
    for one, other in zip(before.engine.encode(images), bundle.engine.encode(images), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "said",
    [
        {"height": 33, "width": 32, "resize": "cover-bicubic"},
        {"height": 32, "width": 32, "resize": "stretch"},
        {"height": "tall", "width": 32, "resize": "cover-bicubic"},
        {"height": 0, "width": 32, "resize": "cover-bicubic"},
        {"height": 32},
        32,
        None,
    ],
)
def test_a_manifest_that_says_it_otherwise_is_refused(root: Path, said: Any) -> None:
    content = json.loads((folder(root) / "manifest.json").read_text())
    del content["preprocess"]
    (folder(root) / "manifest.json").write_text(json.dumps(content | {"input": said}))
    with pytest.raises(BundleError, match=r"is refused: (manifest.json is wrong at|encoder.onnx has other inputs)"):
        open_bundle(root)


def test_keys_depend_on_how_images_are_brought_to_an_encoder(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    ids = {encoder_id(manifest)}
    for fields in ({"rule": "squash"}, {"rule": "crop"}, {"interpolation": "bilinear"}, {"crop_share": 0.875}):
        other = manifest.model_copy(update={"preprocess": manifest.preprocess.with_geometry(**fields)})
        ids |= {encoder_id(other), encoder_id(other)}
    assert len(ids) == 5
    assert manifest.files["encoder.onnx"].sha256 in ids  # as journals from before have it


def _part(whole: Any, asked: Any) -> Any:
    """Of JSON, at any depth, only the fields that other JSON has: a field that came later is not in older ones."""
    if isinstance(whole, dict) and isinstance(asked, dict):
        return {name: _part(whole[name], asked[name]) for name in asked}
    return whole
