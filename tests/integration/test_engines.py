"""The same tests over every engine, against the encoder as it is in PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.engines import Encoding, Engine, OnnxEngine
from secondlook.model.networks.file import load_network
from secondlook.model.networks.torch_engine import TorchEngine

TORCH_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KEY, CLASSES = 16 + 64, 3


@pytest.fixture
def encoder(tiny_bundle: Path) -> Encoder:
    bundle = open_bundle(tiny_bundle)
    file = load_network(bundle.path / "network.safetensors")
    return Encoder(file.network, bundle.manifest.recipe, file.projection)


@pytest.fixture(params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, tiny_bundle: Path, encoder: Encoder) -> Engine:
    if request.param == "torch":
        return TorchEngine(encoder, (32, 32), TORCH_DEVICE)
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
