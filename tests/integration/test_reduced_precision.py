"""Engines of reduced precision answer where they keep the answers, and nowhere else."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.engines import Told, held_to
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.refit import refit
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles import engines
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.engine_choice import EngineChoice
from secondlook.model.bundles.engines import INT8, INT8_DATA, open_engine
from secondlook.model.errors import BundleError
from secondlook.model.networks.engines import Encoding, EngineName
from secondlook.model.networks.linear_graph import set_linear_head
from secondlook.model.networks.openvino_engine import has_bfloat16
from secondlook.model.networks.quantized import quantize
from tests.engines_for_tests import need_openvino
from tests.images_for_tests import COLOURS, make_shades, photos
from tests.networks_for_tests import SIDE, Builder, written

pytest.importorskip("nncf")
need_openvino()

REDUCED: tuple[EngineName, ...] = ("openvino-bf16", "openvino-int8")
PREPROCESS = {"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}, "is_certain": True}


def offset_classifier(offset: float) -> onnx.ModelProto:
    """Tells colours, from pixels that lie far from zero for a while: where numbers have few bits, nothing is left."""
    build = Builder()
    same = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    away, back = (build.constant(np.full(3, by, np.float32)) for by in (offset, -offset))
    tensor = build.node("Conv", "image", build.constant(same), away, kernel_shape=[1, 1])
    tensor = build.node("Conv", build.node("Relu", tensor), build.constant(same), back, kernel_shape=[1, 1])
    shades = np.array(list(COLOURS.values()), np.float32).reshape(-1) / 255
    signs = np.concatenate((np.tile(np.eye(3), 3), -np.tile(np.eye(3), 3)), axis=1).astype(np.float32)
    hidden = build.node(
        "Gemm", build.pooled(tensor), build.constant(signs), build.constant(np.concatenate((-shades, shades)))
    )
    sums = -20 * np.tile(np.repeat(np.eye(3), 3, axis=0), (2, 1)).astype(np.float32)
    logits = build.node("MatMul", build.node("Relu", hidden), build.constant(sums))
    return build.model(outputs=[logits], metadata={"classes": json.dumps(list(COLOURS))})


def indexed(folder: Path, offset: float, per_class: int = 40) -> Path:
    """The root of a bundle."""
    (folder / "how.json").write_text(json.dumps(PREPROCESS))
    network = written(offset_classifier(offset), folder)
    images = load(str(make_shades(folder / "shades", per_class)))
    # No picture is sought to be the same: the colours lie too close together for 8 bits to tell one from the next.
    options = IndexOptions(parameters=Parameters(20.0, 0.5, None))
    index(images, folder / "root", FromNetwork(str(network), preprocess=folder / "how.json"), options)
    return folder / "root"


@pytest.fixture(scope="module", autouse=True)
def _every_encoder_is_worth_it() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines, "SMALL_BYTES", 0)
        yield


def test_a_small_encoder_is_not_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SMALL_BYTES", 1 << 20)
    bundle = opened(indexed(tmp_path, 0.0))
    assert bundle.manifest.engines == ()
    assert INT8 not in bundle.manifest.files


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tmp_path_factory.mktemp("sturdy"), 0.0)


@pytest.fixture(scope="module")
def delicate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tmp_path_factory.mktemp("delicate"), 1000.0)


def opened(root: Path, engine: EngineChoice = "onnxruntime") -> Bundle:
    (generation,) = (path.name for path in root.glob("2*"))
    return open_bundle(root, generation, engine=engine)


def tried(bundle: Bundle) -> dict[str, bool]:
    return {one.engine: one.allowed for one in bundle.manifest.engines}


def expected(allowed: bool) -> dict[str, bool]:
    return {name: allowed for name in REDUCED if name == "openvino-int8" or has_bfloat16()}


def test_a_precision_that_keeps_the_answers_is_allowed(sturdy: Path) -> None:
    bundle = opened(sturdy)
    assert tried(bundle) == expected(True)
    assert INT8 in bundle.manifest.files
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    exact = bundle.engine.encode(images)
    for one in bundle.manifest.engines:
        assert one.images == 120
        assert one.same_top1_percent >= 95
        assert one.cosine_mean > 0.99
        other = opened(sturdy, one.engine)
        assert other.engine.name.endswith({"openvino-bf16": "in bfloat16", "openvino-int8": "in 8 bits"}[one.engine])
        assert other.engine_why == "as set"
        logits, _ = other.engine.encode(images)
        assert 0 < np.abs(logits - exact.logits).max() < 0.1 * np.abs(exact.logits).max()


def test_auto_takes_none_that_was_refused(
    sturdy: Path, delicate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    raced = set()
    for root in (delicate, sturdy):
        assert opened(root, "auto").engine_why.startswith("measured here: ")
        kept = set((tmp_path / "secondlook" / "engines").iterdir()) - raced
        raced |= kept
        (rates,) = (json.loads(path.read_text())["rates"] for path in kept)
        allowed = [name for name, is_allowed in expected(root == sturdy).items() if is_allowed]
        assert list(rates) == ["onnxruntime", "openvino-f32", *allowed]


def test_a_precision_that_spoils_the_answers_is_refused(delicate: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = opened(delicate)
    assert tried(bundle) == expected(False)
    assert INT8 not in bundle.manifest.files
    assert not (bundle.path / INT8).exists()
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    for one in bundle.manifest.engines:
        assert one.error_percent > one.float32_error_percent
        assert "become wrong" in one.why
        with caplog.at_level(logging.WARNING):
            other = opened(delicate, one.engine)
        assert other.engine.name.endswith("in float32")
        assert f"{one.engine} does not keep the answers: {one.why}" == other.engine_why
        assert other.engine_why in caplog.text
        np.testing.assert_allclose(
            other.engine.encode(images).logits, bundle.engine.encode(images).logits, rtol=1e-3, atol=1e-2
        )


@pytest.mark.parametrize("has_head", [False, True])
def test_keys_in_8_bits_are_as_long_as_others(has_head: bool, tmp_path: Path) -> None:
    """Also where a head is made of them, so that products come after the division by their length."""
    build = Builder()
    build.nodes.append(onnx.helper.make_node("Cast", ["images"], ["cast"], to=onnx.TensorProto.FLOAT))
    seen = build.trunk(build.node("Transpose", "cast", perm=[0, 3, 1, 2]))
    build.node("LpNormalization", build.pooled(seen), to="keys", axis=1, p=2)
    model = build.model(("batch", SIDE, SIDE, 3), image_type=onnx.TensorProto.UINT8, name="images")
    model.graph.output.append(onnx.helper.make_tensor_value_info("keys", onnx.TensorProto.FLOAT, ["batch", 24]))
    onnx.save(model, str(tmp_path / "encoder.onnx"))
    if has_head:
        weights = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
        set_linear_head(tmp_path / "encoder.onnx", weights, np.zeros(5, np.float32))
    pictures = photos(40, SIDE)
    quantize(tmp_path / "encoder.onnx", tmp_path / INT8, pictures[:20])
    keys = open_engine(tmp_path, "openvino-int8").encode(pictures[20:]).keys
    exact = open_engine(tmp_path, "openvino-f32").encode(pictures[20:]).keys
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-4)
    assert 0.9 < (keys * exact).sum(axis=1).min() < 1 - 1e-6  # 8 bits they are


def test_a_few_images_prove_nothing(tmp_path: Path) -> None:
    bundle = opened(indexed(tmp_path, 0.0, 8))
    assert bundle.manifest.engines == ()
    assert INT8 not in bundle.manifest.files
    other = opened(tmp_path / "root", "openvino-int8")
    assert other.engine.name.endswith("in float32")
    assert other.engine_why.startswith("openvino-int8 was not held to float32's answers")


def test_a_damaged_8_bit_encoder_is_found(sturdy: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sturdy, tmp_path / "root"))
    (folder,) = root.glob("2*")
    content = bytearray((folder / INT8_DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / INT8_DATA).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{INT8_DATA} is damaged"):
        opened(root)


def test_other_parameters_need_another_proof(sturdy: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sturdy, tmp_path / "root"))
    (old,) = (path.name for path in root.glob("2*"))
    fitted = open_bundle(root, refit(load(str(sturdy.parent / "shades")), root, old, ks=(5,)))
    assert fitted.manifest.engines == ()
    assert not {INT8, INT8_DATA} & fitted.manifest.files.keys()


def told(keys: list[list[float]], mixed: list[list[float]]) -> Told:
    said = np.array(keys, np.float32)
    return Told(Encoding(np.zeros((len(said), 2), np.float32), said), np.array(mixed, np.float32))


def test_what_an_engine_is_held_to() -> None:
    """Errors more than by chance, likelihood, and whether a picture is seen to be its own entry's."""
    count, near = 200, [0.8, 0.6]
    labels, keys = np.zeros(count, np.int64), [[1.0, 0.0]] * count
    sure, wrong = [0.9, 0.1], [0.1, 0.9]
    float32 = told(keys, [sure] * count)
    assert held_to("openvino-bf16", float32, float32, labels, 0.99).allowed
    worse = held_to("openvino-bf16", float32, told(keys, [wrong] * 6 + [sure] * (count - 6)), labels, 0.99)
    assert (worse.allowed, worse.why) == (False, "6 answers of 200 become wrong and 0 right")
    less_sure = held_to("openvino-bf16", float32, told(keys, [[0.85, 0.15]] * count), labels, 0.99)
    assert (less_sure.allowed, less_sure.why) == (False, "negative log-likelihood 0.1054 becomes 0.1625")
    moved = told([near] * 3 + keys[3:], [sure] * count)
    lost = held_to("openvino-bf16", float32, moved, labels, 0.99)
    assert (lost.allowed, lost.recognised_percent) == (False, 98.5)
    assert "seen to be the same as their own entry" in lost.why
    assert held_to("openvino-bf16", float32, moved, labels, None).allowed
    assert held_to("openvino-bf16", float32, moved, labels, 0.7).allowed
