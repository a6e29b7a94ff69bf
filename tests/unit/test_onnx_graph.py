"""ONNX files that are no network for images: one sentence each, with what to do next."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from secondlook.model.errors import MemoryLimitError, NetworkError
from secondlook.model.networks.network import Layer
from secondlook.model.networks.onnx_graph import read_graph
from secondlook.model.networks.onnx_head import token_prefix
from secondlook.model.networks.onnx_network import layer_of, open_onnx
from secondlook.model.networks.sources import open_network
from tests.networks_for_tests import CLASSES, SIDE, Builder, classifier, written


def text_encoder() -> ModelProto:
    build = Builder()
    build.nodes.append(helper.make_node("Cast", ["image"], ["out"], to=TensorProto.FLOAT))
    return build.model(("batch", 77), ["out"], image_type=TensorProto.INT64)


def tabular() -> ModelProto:
    build = Builder()
    return build.model(("batch", 24), [build.head("image")])


def two_inputs() -> ModelProto:
    build = Builder()
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 24])
    pooled = build.node("Mul", build.pooled(build.trunk("image")), "mask")
    return build.model(outputs=[build.head(pooled)], more=[mask])


def grey() -> ModelProto:
    build = Builder()
    return build.model(("batch", 1, SIDE, SIDE), [build.pooled(build.conv("image", 1, 8))])


def detector() -> ModelProto:
    build = Builder()
    seen = build.trunk("image")
    boxes = build.node("Reshape", seen, build.constant(np.array([0, -1, 4])), to="boxes")
    return build.model(outputs=[boxes])


def suppressing() -> ModelProto:
    build = Builder()
    build.node("NonMaxSuppression", "image", "image")
    return build.model(outputs=[build.head(build.pooled(build.trunk("image")))])


def yolo() -> ModelProto:
    build = Builder()
    seen = build.trunk("image")
    return build.model(outputs=[build.node("Reshape", seen, build.constant(np.array([0, 32, -1])))], metadata={})


def says_segments() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.trunk("image")], metadata={"task": "segment"})


def segmenter() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.conv(build.conv("image", 3, 8), 8, 5, stride=1)])


def custom_operator() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.head(build.node("Fancy", build.pooled(build.trunk("image")), domain="mine"))])


def ancient() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.head(build.pooled(build.trunk("image")))], opset=8)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (text_encoder, r"takes image \(int64 \?,77\), so it is a text encoder"),
        (tabular, "has no image input"),
        (two_inputs, r"takes more than images .*: mask \(float \?,24\) too"),
        (grey, "takes images of 1 channel, not of 3"),
        (detector, "finds objects"),
        (suppressing, "finds objects"),
        (yolo, "it does not classify images"),
        (says_segments, "outlines objects"),
        (segmenter, "says something of each place of an image"),
        (custom_operator, r"operators that are not ONNX's own \(mine\.Fancy\)"),
        (ancient, "of opset 8"),
    ],
)
def test_what_is_no_network_for_images_gets_one_sentence(
    made: Callable[[], ModelProto], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        open_onnx(written(made(), tmp_path))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "export" in sentence or "give" in sentence


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pickle.onnx", b"\x80\x02}q\x00.", "is no ONNX file"),
        ("text.onnx", b"hello", "is no ONNX file"),
        ("empty.onnx", b"", "is no ONNX file"),
        ("zip.onnx", b"PK\x03\x04" + bytes(100), "is no ONNX file"),
    ],
)
def test_what_is_no_onnx_file_gets_one_sentence(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NetworkError, match=said):
        read_graph(tmp_path / name)


def test_a_network_for_which_memory_is_short_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(written(classifier(), tmp_path))
    open_network(path)
    monkeypatch.setattr("secondlook.model.memory.available_bytes", lambda: 100_000)
    monkeypatch.setattr("secondlook.model.networks.onnx_network.Runner", None)  # nothing runs
    said = r"network\.onnx, with 0 MB of weights, needs about .* of memory, .*secondlook network --help"
    with pytest.raises(MemoryLimitError, match=said):
        open_network(path)


def test_a_file_or_its_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="there is no file"):
        read_graph(tmp_path / "none.onnx")
    with pytest.raises(NetworkError, match="is a folder"):
        read_graph(tmp_path)
    path = written(classifier(), tmp_path, external=True)
    (tmp_path / "network.data").unlink()
    with pytest.raises(NetworkError, match=r"has its weights in another file, network\.data"):
        read_graph(path)


@pytest.mark.parametrize("location", ["../network.data", "/etc/passwd", "a/../../network.data"])
def test_weights_outside_of_the_folder_are_not_read(location: str, tmp_path: Path) -> None:
    path = written(classifier(), tmp_path, external=True)
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NetworkError, match=r"said to be outside of its folder.*export it again"):
        read_graph(path)


def test_weights_that_are_too_short_are_refused(tmp_path: Path) -> None:
    path = written(classifier(), tmp_path, external=True)
    data = tmp_path / "network.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(NetworkError, match=r"network\.data beside it is too short.*export it again"):
        read_graph(path)


def test_a_hubs_cache_has_links_in_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for file in (written(classifier(), tmp_path / "blobs", external=True), tmp_path / "blobs" / "network.data"):
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    linked = open_onnx(tmp_path / "snapshot" / "network.onnx")
    assert linked.graph.weights_sha256 == open_onnx(written(classifier(), tmp_path)).graph.weights_sha256


def test_the_sum_of_weights_is_that_of_their_values(tmp_path: Path) -> None:
    one = read_graph(written(classifier(), tmp_path)).weights_sha256
    assert one == read_graph(written(classifier(), tmp_path, "again", external=True)).weights_sha256
    other = classifier()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "weight_0"))
    assert one != read_graph(written(other, tmp_path, "other")).weights_sha256


def averaged(of: str) -> ModelProto:
    """The mean of two linear layers: of two vectors as DeiT's, or of one as LeViT's; or of one and a residual."""
    build = Builder()
    pooled = build.pooled(build.trunk("image"))
    other = pooled if of == "one vector" else build.node("Relu", build.node("MatMul", pooled, build.random(24, 24)))
    first = build.head(pooled, 24, 24)
    second = other if of == "a residual" else build.head(other, 24, 24)
    return build.model(outputs=[build.node("Div", build.node("Add", first, second), build.constant(np.float32(2)))])


@pytest.mark.parametrize("of", ["two vectors", "one vector"])
def test_the_mean_of_two_heads_is_a_head(of: str, tmp_path: Path) -> None:
    network = open_onnx(written(averaged(of), tmp_path))
    assert network.classes == tuple(map(str, range(24)))
    assert network.head is not None
    assert network.head.logits == network.graph.outputs[0]
    assert network.layers()[network.default_layer] == Layer((24,), "vector")
    assert network.default_layer == "flatten_7"


def ensemble(names: bool) -> ModelProto:
    """The mean of two networks' probabilities; or their distances to vectors that stand for classes."""
    build = Builder()
    pooled = build.pooled(build.trunk("image"))
    if names:
        far = build.node("Abs", build.node("Sub", pooled, build.random(1, 24)))
        return build.model(outputs=[far], metadata={"names": str([f"class {i}" for i in range(24)])})
    shares = [build.node("Softmax", build.head(pooled), axis=1) for _ in range(2)]
    return build.model(outputs=[build.node("Mean", *shares)])


@pytest.mark.parametrize(
    ("names", "said"),
    [(False, "gives probabilities, but no last"), (True, "a number for each of its 24 classes, but no")],
)
def test_a_classifier_is_not_taken_for_a_backbone(names: bool, said: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=f"{said}.*: export it with the logits"):
        open_onnx(written(ensemble(names), tmp_path))


def test_a_residual_is_no_head(tmp_path: Path) -> None:
    assert open_onnx(written(averaged("a residual"), tmp_path)).classes is None


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = written(classifier(), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(NetworkError):
        open_onnx(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.pth", r"there is no file weights\.pth: name one of efficientnet-lite0 \(lite1, lite2\), FILE\.onnx"),
        ("model.h5", "format='onnx'"),
        ("model.keras", "format='onnx'"),
        ("model.tflite", "tf2onnx"),
        ("model.engine", "the ONNX file that it was built from"),
        ("net.py", r"net\.py:FUNCTION"),
        ("resnet50", "did you mean torchvision:resnet50 or timm:resnet50"),
        ("torchvison:resnet50", "did you mean torchvision:resnet50"),
        ("TIMM:resnet50", "did you mean timm:resnet50"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("", "names no network"),
        (":", "names no network"),
    ],
)
def test_any_other_name_gets_one_sentence_that_says_what_to_give(name: str, said: str) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        open_network(name)
    assert "\n" not in str(caught.value)
    assert "secondlook network" in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "size", "prefix"),
    [
        (197, (224, 224), 1),
        (196, (224, 224), 0),
        (201, (224, 224), 5),
        (49, (224, 224), 0),
        (1370, (518, 518), 1),
        (8400, (640, 640), None),
        (100, (224, 224), None),
        (77, (224, 224), None),
    ],
)
def test_tokens_are_told_from_other_lists(tokens: int, size: tuple[int, int], prefix: int | None) -> None:
    assert token_prefix(tokens, size) == prefix


@pytest.mark.parametrize(
    ("shape", "size", "layer"),
    [
        ((512, 7, 7), (224, 224), Layer((512, 7, 7), "feature map")),
        ((7, 7, 768), (224, 224), Layer((7, 7, 768), "feature map", channels_last=True)),
        ((64, 4, 7), (128, 224), Layer((64, 4, 7), "feature map")),
        ((13, 13, 512), (224, 224), Layer((13, 13, 512), "feature map", channels_last=True)),
        ((3, 197, 64), (224, 224), None),
        ((2048,), (224, 224), Layer((2048,), "vector")),
        ((1,), (224, 224), None),
        ((2, 3, 4, 5), (224, 224), None),
    ],
)
def test_a_layer_is_known_by_its_shape(shape: tuple[int, ...], size: tuple[int, int], layer: Layer | None) -> None:
    assert layer_of(shape, size) == layer


def test_an_image_that_must_not_be_guessed_is_asked_for(tmp_path: Path) -> None:
    build = Builder()
    flat = build.node("Flatten", "image", axis=1)
    model = build.model(("batch", None, None, None), [build.head(flat, 24, CLASSES)])
    with pytest.raises(NetworkError, match="which of its input's dimensions are colours"):
        read_graph(written(model, tmp_path))
