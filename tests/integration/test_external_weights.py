"""Bundles whose encoder has its weights in a file of its own, as one that is not small has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from secondlook.cli import cli
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.bundles.bundle import open_bundle, open_encoder
from secondlook.model.bundles.files import encoder_id, file_info, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import BundleError
from secondlook.model.networks import onnx_weights
from tests.images_for_tests import photos
from tests.service_for_tests import copy_root

GRAPH, DATA = "encoder.onnx", "encoder.onnx.data"
IMAGES = photos(3)


def folder(root: Path) -> Path:
    return root / active_generation(root)


def reseal(root: Path, *listed: str) -> None:
    """Give changed files their right hashes, and no others a place in the manifest."""
    path = folder(root) / "manifest.json"
    manifest = json.loads(path.read_text())
    names = (set(manifest["files"]) - {GRAPH, DATA}) | {GRAPH, *listed}
    manifest["files"] = {name: file_info(path.with_name(name)).model_dump() for name in sorted(names)}
    path.write_text(json.dumps(manifest))


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with its weights taken out of its graph."""
    made = copy_root(tiny_bundle, tmp_path / "bundles")
    onnx_weights.save(onnx_weights.load(folder(made) / GRAPH), folder(made) / GRAPH, most_bytes=1)
    assert (folder(made) / DATA).stat().st_size > (folder(made) / GRAPH).stat().st_size
    reseal(made, DATA)
    return made


def test_it_answers_as_with_its_weights_inside(root: Path, tiny_bundle: Path) -> None:
    expected = open_bundle(tiny_bundle).engine.encode(IMAGES)
    for engine in (
        open_bundle(root).engine,
        open_bundle(root, threads=2, spare_core=True).engine,
        open_encoder(root, None, device="cpu", threads=1).engine,
    ):
        for ours, theirs in zip(engine.encode(IMAGES), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_it_answers_on_when_it_is_removed(root: Path) -> None:
    engine = open_bundle(root).engine
    expected = engine.encode(IMAGES)
    shutil.rmtree(folder(root))
    np.testing.assert_array_equal(engine.encode(IMAGES).keys, expected.keys)


def test_a_new_index_takes_both_files(root: Path, colour_folder: Path, tmp_path: Path) -> None:
    dataset, other = load(str(colour_folder)), tmp_path / "other"
    generation = index(dataset, other, FromBundle(root), IndexOptions())
    old, new = read_manifest(root, active_generation(root)), read_manifest(other, generation)
    assert [new.files[name] for name in (GRAPH, DATA)] == [old.files[name] for name in (GRAPH, DATA)]
    assert encoder_id(new) == encoder_id(old)
    keys = [open_bundle(root).engine.encode(IMAGES).keys, open_bundle(other, generation).engine.encode(IMAGES).keys]
    np.testing.assert_array_equal(*keys)


def test_shards_take_both_files(root: Path, colour_folder: Path, tmp_path: Path) -> None:
    command = ["index", str(colour_folder), "--bundles", str(root), "--parts", str(tmp_path / "parts")]
    old = read_manifest(root, active_generation(root))
    for more in (["--shards", "2", "--shard", "0"], ["--shards", "2", "--shard", "1"], ["--merge"]):
        done = CliRunner().invoke(cli, [*command, *more])
        assert done.exit_code == 0, done.output
    new = read_manifest(root, active_generation(root))
    assert new.generation != old.generation
    assert [new.files[name] for name in (GRAPH, DATA)] == [old.files[name] for name in (GRAPH, DATA)]
    np.testing.assert_array_equal(open_bundle(root).engine.encode(IMAGES).keys.shape, (len(IMAGES), new.store.dim))


def test_other_weights_are_another_encoder(root: Path) -> None:
    """The same graph, as of a network that was trained on: keys of one are none of the other's."""
    before = encoder_id(read_manifest(root, active_generation(root)))
    graph = onnx_weights.load(folder(root) / GRAPH)
    content = (folder(root) / GRAPH).read_bytes()
    others = {
        name: value * np.float32(1.01) if value.dtype == np.float32 else value for name, value in graph.weights.items()
    }
    onnx_weights.save(graph._replace(weights=others), folder(root) / GRAPH, most_bytes=1)
    assert (folder(root) / GRAPH).read_bytes() == content
    reseal(root, DATA)
    open_bundle(root)
    assert encoder_id(read_manifest(root, active_generation(root))) != before


def damaged(root: Path) -> None:
    content = bytearray((folder(root) / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (folder(root) / DATA).write_bytes(content)


def too_short(root: Path) -> None:
    content = (folder(root) / DATA).read_bytes()
    (folder(root) / DATA).write_bytes(content[: len(content) // 2])
    reseal(root, DATA)


def unlisted_and_gone(root: Path) -> None:
    reseal(root)
    (folder(root) / DATA).unlink()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damaged, r"encoder\.onnx\.data is damaged"),
        (lambda root: (folder(root) / DATA).unlink(), r"encoder\.onnx\.data is missing"),
        (reseal, r"manifest\.json does not list encoder\.onnx\.data"),
        (unlisted_and_gone, r"encoder\.onnx cannot run"),
        (too_short, r"encoder\.onnx cannot run"),
    ],
)
def test_weights_that_are_amiss_are_refused_by_name(root: Path, damage: Callable[[Path], None], why: str) -> None:
    damage(root)
    with pytest.raises(BundleError, match=why):
        open_bundle(root)
    with pytest.raises(BundleError, match=why):
        open_encoder(root, None, device="cpu", threads=1)


@pytest.mark.parametrize("place", ["an initialiser", "a branch"])
@pytest.mark.parametrize(
    "name", ["values.npy", "other.bin", "../CURRENT", "/etc/passwd", "./encoder.onnx.data", "a/../encoder.onnx.data"]
)
def test_weights_from_any_other_file_are_refused(root: Path, name: str, place: str) -> None:
    (folder(root) / "other.bin").write_bytes((folder(root) / DATA).read_bytes())
    model = onnx.load(str(folder(root) / GRAPH), load_external_data=False)
    tensor = TensorProto(name="more", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    if place == "a branch":
        branch = AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=GraphProto(initializer=[tensor]))
        model.graph.node.append(NodeProto(op_type="If", attribute=[branch]))
    else:
        model.graph.initializer.append(tensor)
    (folder(root) / GRAPH).write_bytes(model.SerializeToString())
    reseal(root, DATA)
    with pytest.raises(BundleError, match="takes weights from another file"):
        open_bundle(root)
