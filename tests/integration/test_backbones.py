"""Backbones by short names: what they say is what their originals in PyTorch say, and they need no PyTorch."""

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray

from secondlook.indexer.fitting.preprocessing import measure
from secondlook.model.errors import NetworkError
from secondlook.model.images.geometry import Geometry
from secondlook.model.networks.backbones import BACKBONES, DEFAULT_BACKBONE, weights_of
from secondlook.model.networks.network import Layer, default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.sources import open_network
from tests.images_for_tests import COLOURS, photos, picture


def original(name: str, size: tuple[int, int]) -> Any:
    """The same network in PyTorch, as its package says, for images of that size."""
    weights = str(weights_of(name))
    return EfficientNet.from_pretrained(name, weights_path=weights, image_size=size).eval()


@pytest.fixture(scope="module", params=BACKBONES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("size", [None, (192, 256), (161, 97)], ids=["its own size", "192 x 256", "161 x 97"])
def test_logits_and_features_are_the_originals(name: str, size: tuple[int, int] | None) -> None:
    own = BACKBONES[name].preprocess
    preprocess = None if size is None else own.with_geometry(height=size[0], width=size[1])
    network = open_network(name, preprocess)
    assert isinstance(network, OnnxNetwork)
    assert network.size == (size or (BACKBONES[name].side,) * 2)
    images = np.stack([photos(1, 300, seed=seed)[0, : network.size[0], : network.size[1]] for seed in range(3)])
    module = original(name, network.size)
    values = torch.from_numpy(((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        logits, features = module(values).numpy(), module.extract_features(values).numpy()
    found = network.activations(images, ("features", "pooled"))
    assert found.logits is not None
    assert float(np.ptp(logits, axis=1).min()) > 1  # it is sure of something: not all of a kind
    np.testing.assert_allclose(found.logits, logits, atol=1e-3 * np.abs(logits).max())
    np.testing.assert_allclose(found.seen["features"], features, atol=1e-3 * np.abs(features).max())
    np.testing.assert_allclose(found.seen["pooled"], features.mean((2, 3)), atol=1e-3 * np.abs(features).max())
    np.testing.assert_array_equal(network.activations(images[:1]).logits.argmax(), logits[0].argmax())  # type: ignore[union-attr]


def test_a_backbone_is_a_network_like_all_others(name: str) -> None:
    network = open_network(name)
    assert network.name == name
    assert network.classes == tuple(map(str, range(1000)))
    assert network.layers()[network.default_layer] == Layer((1280,), "vector")
    assert default_recipe(network).layers == ("pooled",)
    side = BACKBONES[name].side
    assert network.preprocess == Preprocess(
        geometry=Geometry(height=side, width=side, crop_share=0.875, interpolation="bicubic"),
        arithmetic={"scale": 1, "mean": (127,) * 3, "std": (128,) * 3},
        read_from="EfficientNet-Lite's authors",
        is_published=True,
    )
    blocks = [layer for layer in network.layers() if layer.startswith("blocks.") and layer.count(".") == 1]
    assert len(blocks) == sum(BACKBONES[name].repeats)


def test_preprocessing_that_is_given_counts(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(
        '{"geometry": {"height": 96, "width": 96, "rule": "squash"}, '
        '"arithmetic": {"scale": 1, "mean": [127, 127, 127], "std": [128, 128, 128]}}'
    )
    (tmp_path / "other.json").write_text('{"geometry": {"height": 96, "width": 96}, "arithmetic": {}}')
    own, other = (open_network(DEFAULT_BACKBONE, tmp_path / f"{name}.json").preprocess for name in ("own", "other"))
    assert own.geometry == Geometry(height=96, width=96, rule="squash")
    assert (own.is_published, other.is_published) == (True, False)  # images are asked of the other's arithmetic


def test_images_are_not_asked_of_the_arithmetic_that_is_published() -> None:
    """Three plain colours, which the network was not made for: they would speak against it."""
    network = open_network(DEFAULT_BACKBONE)
    assert isinstance(network, OnnxNetwork)
    drawn = [picture(colour, (60, 40), seed) for seed in range(12) for colour in COLOURS]

    def read(index: int, geometry: Geometry) -> NDArray[np.uint8]:
        return np.asarray(drawn[index].resize((geometry.width, geometry.height)))

    labels = np.arange(36) % 3
    proof = measure(network, read, range(36), labels, None)
    assert [tried.said for tried in proof.arithmetic] == ["declared"]
    assert proof.refusal(DEFAULT_BACKBONE) is None
    assert proof.best.arithmetic == network.preprocess.arithmetic
    assert len(proof.geometry) > 1
    assert proof.said().startswith("pixels: as those who trained the network published it.")


def test_the_default_is_of_the_extra_and_its_sizes_are_said() -> None:
    assert DEFAULT_BACKBONE == "efficientnet-lite0"
    for name, backbone in BACKBONES.items():
        assert distribution(backbone.package).version == "0.1.0"
        assert "Apache" in str(distribution(backbone.package).read_text("LICENSE"))
        assert weights_of(name).stat().st_size == backbone.bytes


def test_opening_one_imports_neither_torch_nor_the_package_of_its_weights() -> None:
    program = (
        "import sys; from secondlook.model.networks.sources import open_network; "
        f"open_network({DEFAULT_BACKBONE!r}).layers(); "
        "print(*[m for m in sys.modules if m.split('.')[0] in ('torch', 'timm', 'transformers', 'sklearn') "
        "or m.startswith('efficientnet')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default's package in a folder of its own that is looked into first; the file of its weights."""
    package = distribution(BACKBONES[DEFAULT_BACKBONE].package)
    module = BACKBONES[DEFAULT_BACKBONE].file.partition("/")[0]
    shutil.copytree(str(package.locate_file(module)), folder / module)
    (info := folder / f"{module}-9.dist-info").mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {BACKBONES[DEFAULT_BACKBONE].package}\nVersion: 9\n")
    (folder / module / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(folder)
    return folder / BACKBONES[DEFAULT_BACKBONE].file


def test_weights_that_are_not_those_that_were_published_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = installed(tmp_path, monkeypatch)
    assert open_network(DEFAULT_BACKBONE).classes is not None
    content = path.read_bytes()
    for other in (content[:-1], content + b"\0", content[:10_000_000] + b"\0" + content[10_000_001:], b""):
        path.write_bytes(other)
        with pytest.raises(NetworkError, match=r"is not the file that was published: pip install --force-reinstall"):
            open_network(DEFAULT_BACKBONE)
    path.unlink()
    with pytest.raises(NetworkError, match=r"is installed without efficientnet-lite0-57934424\.pth: pip install"):
        open_network(DEFAULT_BACKBONE)


@pytest.mark.parametrize("name", [DEFAULT_BACKBONE, "efficientnet-lite1"])
def test_without_its_package_one_sentence_says_what_to_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BACKBONES[name].package
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if not Path(entry, f"{real.replace('-', '_')}").exists()]
    )
    with pytest.raises(NetworkError) as caught:
        open_network(name)
    said = str(caught.value)
    assert said.startswith(f"{name} needs the package {real}: pip install {real}")
    assert ("the extra photos" in said) == (name == DEFAULT_BACKBONE)


@pytest.mark.parametrize(
    "typed",
    ["EfficientNet-Lite0", "efficientnet_lite0", "efficientnet-lite4", " efficientnet-lite0", "efficientnetlite0"],
)
def test_a_name_that_is_almost_one_gets_it(typed: str) -> None:
    with pytest.raises(NetworkError, match=r"did you mean efficientnet-lite\d\?"):
        open_network(typed)
