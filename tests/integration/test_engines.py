"""The same tests over every engine, against the encoder as it is in PyTorch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.errors import EngineError
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.engines import Encoding, Engine, OnnxEngine
from secondlook.model.networks.file import load_network
from secondlook.model.networks.openvino_engine import OpenVinoEngine, has_bfloat16
from secondlook.model.networks.torch_engine import TorchEngine

TORCH_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KEY, CLASSES = 16 + 64, 3


@pytest.fixture
def encoder(tiny_bundle: Path) -> Encoder:
    bundle = open_bundle(tiny_bundle)
    file = load_network(bundle.path / "network.safetensors")
    return Encoder(file.network, bundle.manifest.recipe, file.projection)


@pytest.fixture(params=["onnxruntime", "openvino", "torch"])
def engine(request: pytest.FixtureRequest, tiny_bundle: Path, encoder: Encoder) -> Engine:
    if request.param == "torch":
        return TorchEngine(encoder, (32, 32), TORCH_DEVICE)
    if request.param == "openvino":
        pytest.importorskip("openvino")
        return OpenVinoEngine(open_bundle(tiny_bundle).path / "encoder.onnx")
    return OnnxEngine(open_bundle(tiny_bundle).path / "encoder.onnx")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Of a colour and some noise each: their keys lie apart."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 200, (9, 1, 1, 3))
    return (colours + random.integers(0, 56, (9, 32, 32, 3))).astype(np.uint8)


def agree(one: Encoding, other: Encoding) -> None:
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-3 * np.abs(other.logits).max())
    np.testing.assert_allclose(one.keys, other.keys, atol=1e-3)


def test_an_engine_says_what_it_takes_and_gives(engine: Engine, images: NDArray[np.uint8]) -> None:
    assert engine.size == (32, 32)
    assert (engine.classes, engine.dim) == (CLASSES, KEY)
    logits, keys = engine.encode(images)
    assert (logits.shape, keys.shape) == ((9, CLASSES), (9, KEY))
    assert (logits.dtype, keys.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-4)
    assert np.abs(keys[0] - keys[1:]).max() > 0.1


def test_an_engine_gives_what_the_encoder_gives(engine: Engine, encoder: Encoder, images: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        logits, keys = encoder.to("cpu").eval()(torch.from_numpy(images))
        expected = Encoding(logits.numpy(), keys.numpy())
    encoder.to(TORCH_DEVICE)
    agree(engine.encode(images), expected)


def test_an_image_is_encoded_alone_as_in_a_batch(engine: Engine, images: NDArray[np.uint8]) -> None:
    alone = [engine.encode(image[None]) for image in images]
    together = Encoding(*(np.concatenate(parts) for parts in zip(*alone, strict=True)))
    np.testing.assert_allclose(engine.encode(images).keys, together.keys, atol=1e-4)
    agree(engine.encode(images), together)


def test_float32_is_float32_on_openvino(tiny_bundle: Path, images: NDArray[np.uint8]) -> None:
    """By itself OpenVINO computes in bfloat16 where the processor has AMX."""
    pytest.importorskip("openvino")
    path = open_bundle(tiny_bundle).path / "encoder.onnx"
    expected = OnnxEngine(path).encode(images)
    np.testing.assert_allclose(OpenVinoEngine(path).encode(images).keys, expected.keys, atol=2e-5)
    if has_bfloat16():
        assert np.abs(OpenVinoEngine(path, arithmetic="bf16").encode(images).keys - expected.keys).max() > 2e-4
    else:
        with pytest.raises(EngineError, match="this processor has no bfloat16"):
            OpenVinoEngine(path, arithmetic="bf16")


def test_what_was_answered_stays_when_the_next_images_come(engine: Engine, images: NDArray[np.uint8]) -> None:
    first = engine.encode(images[:3])
    kept = first.keys.copy()
    engine.encode(images[3:6])
    np.testing.assert_array_equal(first.keys, kept)


def test_openvino_refuses_what_is_no_encoder(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "encoder.onnx").write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match=r"encoder.onnx is not an encoder"):
        OpenVinoEngine(tmp_path / "encoder.onnx")


def test_a_bundle_opens_on_the_engine_that_is_asked_for(tiny_bundle: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("openvino")
    usual, other = open_bundle(tiny_bundle), open_bundle(tiny_bundle, engine="openvino-f32")
    assert usual.engine.name.startswith("onnxruntime ")
    assert (other.engine.name.partition(" ")[0], other.engine_why) == ("openvino", "as set")
    agree(other.engine.encode(images), usual.engine.encode(images))


def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match="openvino-f32 needs openvino: install secondlook with the extra fast"):
        open_bundle(tiny_bundle, engine="openvino-f32")
    assert open_bundle(tiny_bundle).engine.name.startswith("onnxruntime ")


QUIET = """
import sys
from pathlib import Path
import numpy as np
from secondlook.model.networks.engines import OnnxEngine

path = Path(sys.argv[1])
images = np.zeros((2, 32, 32, 3), np.uint8)
OnnxEngine(path).encode(images)
if sys.argv[2] == "openvino":
    from secondlook.model.networks.openvino_engine import OpenVinoEngine

    OpenVinoEngine(path).encode(images)
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_engines_tell_nobody_what_they_are_used_for(runtime: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """No file is written to the home folder, and no socket opened, though OpenVINO brings its telemetry along."""
    pytest.importorskip(runtime)
    strace, home, log = shutil.which("strace"), tmp_path / "home", tmp_path / "log"
    home.mkdir()
    path = open_bundle(tiny_bundle).path / "encoder.onnx"
    command = [sys.executable, "-c", QUIET, str(path), runtime]
    if strace is not None:
        command = [strace, "-f", "-qq", "-e", "trace=socket,connect", "-o", str(log), *command]
    env = {name: value for name, value in os.environ.items() if name != "CI"}  # which stops it too
    env["HOME"] = str(home)
    subprocess.run(command, env=env, check=True)
    assert list(home.iterdir()) == []
    if strace is not None:
        assert "AF_INET" not in log.read_text()
