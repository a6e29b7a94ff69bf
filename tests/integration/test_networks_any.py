"""One body of tests over every kind of network."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from secondlook.model.errors import EngineError, NetworkError, RecipeError
from secondlook.model.images import Geometry
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.engines import OnnxEngine
from secondlook.model.networks.keys import keys_of, pooled, unit
from secondlook.model.networks.network import Network, default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork, open_onnx
from secondlook.model.networks.preprocess import Arithmetic, Preprocess
from secondlook.model.networks.projection import Covariance
from secondlook.model.networks.recipe import Pool, Recipe
from secondlook.model.networks.sources import open_network
from tests import networks_for_tests as dialects
from tests.images_for_tests import photos
from tests.networks_for_tests import CLASSES, DIALECTS, SIDE, Builder, written

OWN = Arithmetic(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="BGR")
MODULE = """
import torch
from model.helper import WIDE  # a package of the user's own, called as one of ours
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDE, 3, stride=4, padding=1)
        self.block = nn.Sequential(nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE), nn.ReLU(inplace=True))
        self.fc = nn.Linear(WIDE, 5)

    def forward(self, x):
        return self.fc(self.block(self.block(self.stem(x))).mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Net(), {"geometry": {"height": 32, "width": 32}, "arithmetic": {"mean": [.4, .5, .6]}}, list("abcde")


"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    for name, build in DIALECTS.items():
        written(build(), made, name)
    written(dialects.classifier(), made, "external", external=True)
    (made / "mine.py").write_text(MODULE)
    (made / "model").mkdir()
    (made / "model" / "__init__.py").touch()
    (made / "model" / "helper.py").write_text("WIDE = 12")
    return made


Opens = Callable[[str], Network]


@pytest.fixture(scope="module")
def opened(folder: Path, tiny_network: Path) -> Opens:
    there: dict[str, Network] = {}

    def get(name: str) -> Network:
        if name not in there:
            if name == "cifar":
                there[name] = open_network(str(tiny_network))
            elif name == "module":
                there[name] = open_network(f"{folder / 'mine.py'}:make")
            else:
                geometry = Geometry(height=SIDE, width=SIDE)
                given = None if name == "bytes_in" else Preprocess(geometry=geometry, arithmetic=OWN, read_from="test")
                there[name] = open_network(str(folder / f"{name}.onnx"), given)
        return there[name]

    return get


NETWORKS = [*DIALECTS, "external", "module", "cifar"]
ONNX = NETWORKS[:-1]
IMAGES = photos(5, SIDE)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_image_alone_is_as_in_a_batch(name: str, opened: Opens) -> None:
    network = opened(name)
    names = tuple(network.layers())
    logits, seen = network.activations(IMAGES, names)
    assert network.default_layer in names
    assert set(seen) == set(names)
    assert (logits is None) == (network.classes is None)
    for i in range(len(IMAGES)):
        alone = network.activations(IMAGES[i : i + 1], names)
        if logits is not None and alone.logits is not None and network.classes is not None:
            assert logits.shape == (5, len(network.classes))
            np.testing.assert_allclose(alone.logits[0], logits[i], atol=1e-3 * max(1, np.abs(logits).max()))
        for layer, tensor in seen.items():
            assert tensor.shape == (5, *network.layers()[layer].shape)
            np.testing.assert_allclose(alone.seen[layer][0], tensor[i], atol=1e-3 * max(1, np.abs(tensor).max()))
    if logits is not None:
        assert np.abs(logits[0] - logits[1]).max() > 1e-4  # it looks at the images


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(name: str, opened: Opens) -> None:
    network = opened(name)
    with pytest.raises(RecipeError, match=r"no layer '.*': the nearest are .*secondlook network"):
        network.activations(IMAGES, (network.default_layer + "s",))


@pytest.mark.parametrize("name", ONNX)
def test_its_encoder_is_one_graph_that_the_engine_runs(name: str, opened: Opens, tmp_path: Path) -> None:
    network = opened(name)
    assert isinstance(network, OnnxNetwork)
    recipes = [default_recipe(network)]
    for layer, what in network.layers().items():
        pools: list[Pool] = ["mean", None] if what.kind != "vector" else [None]
        if what.kind == "feature map" and min(what.positions) > 2:
            pools.append(3)
        if what.prefix:
            pools.append("cls")
        recipes.extend(Recipe(layers=(layer,), pool=(pool,)) for pool in pools[: None if len(recipes) < 9 else 1])
    for recipe in recipes:
        engine = export_encoder(network, recipe, tmp_path / "encoder.onnx", IMAGES)
        assert engine.size == (SIDE, SIDE)
        assert engine.classes == (0 if network.classes is None else len(network.classes))
        logits, keys = engine.encode(IMAGES)
        assert (logits.shape, keys.shape) == ((5, engine.classes), (5, engine.dim))
        np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ONNX)
def test_the_mean_with_the_mirrored_image_is_taken_in_the_graph(name: str, opened: Opens, tmp_path: Path) -> None:
    plain = opened(name)
    assert isinstance(plain, OnnxNetwork)
    network = plain.taking(plain.preprocess.model_copy(update={"mirrored": True}))
    mirrored = np.ascontiguousarray(IMAGES[:, :, ::-1])
    of_each_kind = {what.kind: layer for layer, what in network.layers().items()}
    for layer in {network.default_layer, *of_each_kind.values()}:
        what = network.layers()[layer]
        one, other = (plain.activations(images, (layer,)) for images in (IMAGES, mirrored))
        both = network.activations(IMAGES, (layer,))
        pools: list[Pool] = ["mean", None] if what.kind == "feature map" else [None]
        for pool in pools if layer != network.default_layer else [default_recipe(network).pool[0]]:
            recipe = Recipe(layers=(layer,), pool=(pool,))
            # Features are averaged before they are made unit length.
            mean = (pooled(one.seen[layer], what, pool) + pooled(other.seen[layer], what, pool)) / 2
            np.testing.assert_allclose(keys_of(both.seen, network.layers(), recipe), unit(mean), atol=1e-5)
            engine = export_encoder(network, recipe, tmp_path / "encoder.onnx", IMAGES)
            logits, keys = engine.encode(IMAGES)
            np.testing.assert_allclose(keys, unit(mean), atol=1e-3)
            np.testing.assert_allclose(engine.encode(mirrored).keys, keys, atol=1e-5)
            assert engine.encode(IMAGES[:1]).keys.shape == (1, engine.dim)
            if one.logits is not None and other.logits is not None:
                expected = (one.logits + other.logits) / 2
                np.testing.assert_allclose(logits, expected, atol=1e-3 * max(1, np.abs(expected).max()))
    alone = export_encoder(plain, default_recipe(plain), tmp_path / "alone.onnx", IMAGES)
    assert np.abs(alone.encode(IMAGES).keys - alone.encode(mirrored).keys).max() > 1e-4  # it sees which side is left


def test_another_size_is_taken_where_the_graph_takes_any(tmp_path: Path) -> None:
    build = Builder()
    free = build.model(("n", 3, "h", "w"), [build.head(build.pooled(build.trunk("image")))])
    network = open_onnx(written(free, tmp_path, "free"))
    larger = network.taking(network.preprocess.with_geometry(height=288, width=288))
    assert (network.size, larger.size) == ((224, 224), (288, 288))
    images = photos(5, 288)
    layer = next(name for name, what in larger.layers().items() if what.shape == (24, 36, 36))
    assert network.layers()[layer].shape == (24, 28, 28)
    engine = export_encoder(larger, Recipe(layers=(layer,), pool=(4,)), tmp_path / "encoder.onnx", images)
    assert (engine.size, engine.dim) == ((288, 288), 384)
    fixed = open_onnx(written(dialects.classifier(), tmp_path, "fixed"))
    with pytest.raises(NetworkError, match="takes images of 32 x 32"):
        fixed.taking(fixed.preprocess.with_geometry(height=40, width=40))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["classifier", "channels_last", "token_backbone"])
def test_a_recipe_of_several_parts_is_reduced_in_the_graph(
    name: str, together: bool, opened: Opens, tmp_path: Path
) -> None:
    network = opened(name)
    assert isinstance(network, OnnxNetwork)
    first, last = next(iter(network.layers())), network.default_layer
    recipe = Recipe(
        layers=(first, last), pool=(2, None), reduce=4, extra=last, extra_weight=0.25, reduce_extra=together
    )
    many = photos(40, SIDE, seed=1)
    wide = keys_of(network.activations(many, recipe.all_layers).seen, network.layers(), recipe.unreduced)
    covariance = Covariance(wide.shape[1])
    covariance.add(wide)
    projection = covariance.projection(4)
    engine = export_encoder(network, recipe, tmp_path / "encoder.onnx", IMAGES, projection.astype(np.float32))
    assert engine.dim == (4 if together else 4 + network.layers()[last].width(None))
    headless = export_encoder(
        network, recipe, tmp_path / "keys.onnx", IMAGES, projection.astype(np.float32), head=False
    )
    assert headless.classes == 0
    np.testing.assert_allclose(headless.encode(IMAGES).keys, engine.encode(IMAGES).keys, atol=1e-5)


def test_what_was_understood_of_each(opened: Opens) -> None:
    seen = {name: opened(name) for name in ONNX}
    kinds = {name: network.layers()[network.default_layer].kind for name, network in seen.items()}
    assert {name for name, kind in kinds.items() if kind == "feature map"} == {"convolution_as_head", "backbone"}
    assert {name for name, kind in kinds.items() if kind == "tokens"} == {"token_backbone"}
    assert {name for name, network in seen.items() if network.classes is None} == {"backbone", "token_backbone"}
    assert seen["convolution_as_head"].classes == tuple(f"class {i}" for i in range(CLASSES))
    assert seen["two_classes_in_one"].classes == ("0", "1")
    assert seen["module"].classes == tuple("abcde")
    assert seen["module"].preprocess.arithmetic == Arithmetic(mean=(0.4, 0.5, 0.6))
    graphs = {name: network for name, network in seen.items() if isinstance(network, OnnxNetwork)}
    assert {name for name, network in graphs.items() if network.was_freed} == {"one_image_only"}
    assert {name for name, network in graphs.items() if network.graph.resizes} == {"resizes_inside"}
    assert {name for name, network in graphs.items() if network.graph.input.layout == "NHWC"} == {
        "channels_last",
        "bytes_in",
    }
    assert seen["bytes_in"].preprocess.arithmetic.is_plain


def test_the_softmax_is_left_out(opened: Opens) -> None:
    expected = opened("classifier").activations(IMAGES).logits
    assert expected is not None
    for name in ("fused_softmax", "written_out_softmax", "several_outputs", "names_like_ours", "external", "old_opset"):
        logits = opened(name).activations(IMAGES).logits
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_modules_layers_have_their_paths_and_calls(opened: Opens) -> None:
    network = opened("module")
    assert list(network.layers()) == [
        "stem",
        "block.0",
        "block.2",
        "block",
        "block.0#2",
        "block.2#2",
        "block#2",
        "fc:input",
    ]
    assert network.default_layer == "fc:input"
    _, seen = network.activations(IMAGES, ("block", "block.2", "block#2", "fc:input"))
    np.testing.assert_array_equal(seen["block"], seen["block.2"])
    assert np.abs(seen["block"] - seen["block#2"]).max() > 1e-3
    np.testing.assert_allclose(seen["block#2"].mean((2, 3)), seen["fc:input"], atol=1e-5)


def test_a_module_says_the_same_in_pytorch(opened: Opens, folder: Path) -> None:
    import importlib.util

    import torch

    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
        assert spec is not None
        assert spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
            del sys.modules[name]
    module = code.make()[0].eval()
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    with torch.inference_mode():
        expected = module(pixels).numpy()
    np.testing.assert_allclose(opened("module").activations(IMAGES).logits, expected, atol=1e-4)


def test_an_encoder_that_says_something_else_is_refused(opened: Opens, tmp_path: Path) -> None:
    from secondlook.model.networks.encoder_graph import prove

    network = opened("classifier")
    assert isinstance(network, OnnxNetwork)
    other = network.taking(network.preprocess.with_arithmetic(channels="RGB"))
    engine = export_encoder(other, default_recipe(other), tmp_path / "encoder.onnx", IMAGES)
    with pytest.raises(EngineError, match="does not give the network's"):
        prove(engine, network, default_recipe(network), IMAGES)
    assert isinstance(engine, OnnxEngine)


def test_weights_too_large_for_one_file_lie_beside_it(opened: Opens, tmp_path: Path) -> None:
    network = opened("classifier")
    assert isinstance(network, OnnxNetwork)
    expected = network.activations(IMAGES).logits
    engine = export_encoder(network, default_recipe(network), tmp_path / "encoder.onnx", IMAGES, most_bytes=4096)
    assert (tmp_path / "encoder.onnx.data").stat().st_size > 4096 > (tmp_path / "encoder.onnx").stat().st_size
    assert expected is not None
    np.testing.assert_allclose(engine.encode(IMAGES).logits, expected, atol=1e-4)
    again = open_onnx(tmp_path / "encoder.onnx")  # an encoder is a network too
    assert again.preprocess.arithmetic.is_plain
    np.testing.assert_allclose(again.activations(IMAGES).logits, expected, atol=1e-4)
    (tmp_path / "encoder.onnx.data").unlink()
    np.testing.assert_allclose(engine.encode(IMAGES).logits, expected, atol=1e-4)  # what is mapped stays

    export_encoder(network, default_recipe(network), tmp_path / "encoder.onnx", IMAGES, most_bytes=4096)
    export_encoder(network, default_recipe(network), tmp_path / "encoder.onnx", IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


@pytest.mark.parametrize("below", ["", "onnx"])
def test_a_repository_with_an_onnx_file_needs_no_pytorch(below: str, tmp_path: Path) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    written(dialects.classifier(), tmp_path / below, "model")
    labels = {str(i): f"thing {i}" for i in range(CLASSES)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**processor, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3})
    )
    network = open_network(f"hf:{tmp_path}")
    assert network.classes == tuple(labels.values())
    assert network.preprocess.geometry == Geometry(height=SIDE, width=SIDE, rule="squash", interpolation="bicubic")
    assert network.preprocess.arithmetic == Arithmetic(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert network.preprocess.read_from == "preprocessor_config.json beside model.onnx"


def test_reading_an_onnx_file_and_writing_its_encoder_needs_no_pytorch(folder: Path, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.sources import open_network

network = open_network(sys.argv[1])
export_encoder(network, default_recipe(network), Path(sys.argv[2]), network.probe(5))
print([name for name in ("torch", "timm", "transformers", "safetensors") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(folder / "classifier.onnx"), str(tmp_path / "encoder.onnx")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_batch_that_is_baked_in_is_refused(tmp_path: Path) -> None:
    build = Builder()
    pooled = build.pooled(build.trunk("image"))
    mean = build.node("ReduceMean", pooled, axes=[0], keepdims=1)  # over the images
    path = written(build.model((4, 3, SIDE, SIDE), [build.head(build.node("Sub", pooled, mean))]), tmp_path)
    with pytest.raises(NetworkError, match="takes exactly 4 images at a time: export it with the number free"):
        open_network(str(path))


def test_a_json_file_may_leave_the_size_to_the_graph(folder: Path, tiny_network: Path, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(json.dumps({"geometry": {"rule": "squash"}, "arithmetic": {"channels": "BGR"}}))
    given = open_network(str(folder / "classifier.onnx"), path).preprocess
    assert given.geometry == Geometry(height=SIDE, width=SIDE, rule="squash")
    assert (given.arithmetic, given.read_from) == (Arithmetic(channels="BGR"), "given.json")
    with pytest.raises(NetworkError, match="leave out --preprocess"):
        open_network(str(tiny_network), path)


def test_weights_are_read_from_a_checkpoint_or_not_at_all(tmp_path: Path) -> None:
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    from secondlook.model.networks.torch_export import refusal
    from secondlook.model.networks.torch_load import load_torchvision

    torch.manual_seed(0)
    module = shufflenet_v2_x0_5(num_classes=3).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}, tmp_path / "a.pth"
    )
    loaded = load_torchvision("shufflenet_v2_x0_5", str(tmp_path / "a.pth"))
    images = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.module.eval()(images), module(images))
    assert loaded.preprocess is not None
    torch.save(module, tmp_path / "pickle.pth")
    for file, said in (
        ("pickle.pth", "holds more than tensors"),
        ("none.pth", "neither a file nor one of its weights"),
    ):
        with pytest.raises(NetworkError, match=said):
            load_torchvision("shufflenet_v2_x0_5", str(tmp_path / file))
    with pytest.raises(NetworkError, match="does not hold the weights of resnet18"):
        load_torchvision("resnet18", str(tmp_path / "a.pth"))
    with pytest.raises(NetworkError, match="did you mean torchvision:resnet"):
        load_torchvision("resnet19", "")
    assert "give a file of them" in refusal("torchvision:resnet18", URLError("no such host"))


def test_images_of_another_size_than_declared_are_refused(folder: Path) -> None:
    given = Preprocess(geometry=Geometry(height=64, width=64), read_from="config.json")
    with pytest.raises(NetworkError, match=r"images of 32 x 32, but config\.json says 64 x 64"):
        open_network(str(folder / "classifier.onnx"), given)
