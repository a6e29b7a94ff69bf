"""Small ONNX networks with random weights, in the dialects that exporters write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

SIDE, CLASSES = 32, 7
FLOAT, HALF, BYTES = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8


class Builder:
    """A graph that grows node by node."""

    def __init__(self, dtype: int = FLOAT, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.dtype, self._random = dtype, np.random.default_rng(seed)

    def node(self, kind: str, *inputs: str, domain: str = "", to: str | None = None, **attributes: Any) -> str:
        output = to or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        value = self._random.normal(0, (2 / fan_in) ** 0.5, shape)
        return self.constant(value.astype(np.float16 if self.dtype == HALF else np.float32))

    def conv(self, tensor: str, into: int, out: int, stride: int = 2, kernel: int = 3) -> str:
        return self.node(
            "Conv", tensor, self.random(out, into, kernel, kernel), kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )  # fmt: skip

    def trunk(self, tensor: str) -> str:
        """(B,3,H,W) -> (B,24,H/8,W/8)."""
        for into, out in ((3, 8), (8, 16), (16, 24)):
            tensor = self.node("Relu", self.conv(tensor, into, out))
        return tensor

    def pooled(self, tensor: str) -> str:
        return self.node("Flatten", self.node("GlobalAveragePool", tensor), axis=1)

    def head(self, tensor: str, wide: int = 24, classes: int = CLASSES) -> str:
        return self.node("Gemm", tensor, self.random(wide, classes), self.random(classes))

    def model(
        self,
        image: Sequence[int | str | None] = ("batch", 3, SIDE, SIDE),
        outputs: Sequence[str] = (),
        *,
        opset: int = 17,
        metadata: Mapping[str, str] | None = None,
        image_type: int | None = None,
        more: Sequence[onnx.ValueInfoProto] = (),
        name: str = "image",
    ) -> ModelProto:
        given = helper.make_tensor_value_info(name, image_type or self.dtype, list(image))
        made = [helper.make_tensor_value_info(output, self.dtype, None) for output in outputs]
        graph = helper.make_graph(self.nodes, "network", [given, *more], made, self.weights)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        helper.set_model_props(model, dict(metadata or {}))
        return model


def classifier() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.head(build.pooled(build.trunk("image")))])


def old_opset() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.head(build.pooled(build.trunk("image")))], opset=11)


def fused_softmax() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.node("Softmax", build.head(build.pooled(build.trunk("image"))), axis=1)])


def written_out_softmax() -> ModelProto:
    build = Builder()
    logits = build.head(build.pooled(build.trunk("image")))
    most = build.node("ReduceMax", logits, axes=[1], keepdims=1)
    powers = build.node("Exp", build.node("Sub", logits, most))
    total = build.node("ReduceSum", powers, build.constant(np.array([1])), keepdims=1)
    return build.model(outputs=[build.node("Div", powers, total)])


def channels_last() -> ModelProto:
    """As tf2onnx writes it: NHWC outside, a matrix and a sum as the head."""
    build = Builder()
    seen = build.trunk(build.node("Transpose", "image", perm=[0, 3, 1, 2]))
    pooled = build.node("Reshape", build.node("GlobalAveragePool", seen), build.constant(np.array([-1, 24])))
    logits = build.node("Add", build.node("MatMul", pooled, build.random(24, CLASSES)), build.random(CLASSES))
    return build.model(("unk", SIDE, SIDE, 3), [build.node("Softmax", logits, axis=1)])


def half_precision() -> ModelProto:
    build = Builder(HALF)
    return build.model(outputs=[build.head(build.pooled(build.trunk("image")))])


def bytes_in() -> ModelProto:
    """Takes uint8, and brings samples to -1..1 itself."""
    build = Builder()
    build.nodes.append(helper.make_node("Cast", ["image"], ["cast"], to=FLOAT))
    values = build.node("Div", "cast", build.constant(np.array([127.5], np.float32)))
    values = build.node("Sub", values, build.constant(np.array([1], np.float32)))
    seen = build.trunk(build.node("Transpose", values, perm=[0, 3, 1, 2]))
    return build.model(("n", SIDE, SIDE, 3), [build.head(build.pooled(seen))], image_type=BYTES)


def one_image_only() -> ModelProto:
    """A batch of one in the input, in a shape, and in a class token."""
    build = Builder()
    patches = build.node("Conv", "image", build.random(16, 3, 8, 8), kernel_shape=[8, 8], strides=[8, 8])
    tokens = build.node("Reshape", patches, build.constant(np.array([1, 16, 16])))
    tokens = build.node("Transpose", tokens, perm=[0, 2, 1])
    tokens = build.node("Concat", build.random(1, 1, 16), tokens, axis=1)
    mixed = build.node("MatMul", build.constant(np.full((17, 17), 1 / 17, np.float32)), tokens)
    tokens = build.node("Relu", build.node("Add", build.node("MatMul", mixed, build.random(16, 16)), tokens))
    first = build.node("Gather", tokens, build.constant(np.array(0)), axis=1)
    return build.model((1, 3, SIDE, SIDE), [build.head(first, 16)])


def convolution_as_head() -> ModelProto:
    """As SqueezeNet's: a 1 x 1 convolution, then an activation, then the pooling."""
    build = Builder()
    classes = build.node("Relu", build.conv(build.trunk("image"), 24, CLASSES, stride=1, kernel=1))
    names = {"names": str({i: f"class {i}" for i in range(CLASSES)})}
    return build.model(outputs=[build.pooled(classes)], metadata={**names, "imgsz": f"[{SIDE}, {SIDE}]"})


def several_outputs() -> ModelProto:
    build = Builder()
    pooled = build.node("Identity", build.pooled(build.trunk("image")), to="features")
    logits = build.node("Identity", build.head(pooled), to="logits")
    return build.model(outputs=[pooled, logits])


def two_classes_in_one() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.node("Sigmoid", build.head(build.pooled(build.trunk("image")), classes=1))])


def any_size() -> ModelProto:
    build = Builder()
    seen = build.head(build.pooled(build.trunk("image")))
    return build.model(("batch", 3, "height", "width"), [seen])


def resizes_inside() -> ModelProto:
    build = Builder()
    sizes = build.constant(np.array([0, 3, 2 * SIDE, 2 * SIDE])[2:])
    resized = build.node("Resize", "image", "", "", sizes, axes=[2, 3], mode="linear")
    return build.model(outputs=[build.head(build.pooled(build.trunk(resized)))], opset=18)


def names_like_ours() -> ModelProto:
    """Its tensors are called what an encoder's are called."""
    build = Builder()
    keys = build.node("Identity", build.pooled(build.trunk("images")), to="keys")
    return build.model(outputs=[build.node("Identity", build.head(keys), to="logits")], name="images")


def backbone() -> ModelProto:
    build = Builder()
    return build.model(outputs=[build.trunk("image")])


def token_backbone() -> ModelProto:
    """Tokens of patches, a class token first, and no head."""
    build = Builder()
    patches = build.node("Conv", "image", build.random(16, 3, 8, 8), kernel_shape=[8, 8], strides=[8, 8])
    tokens = build.node("Reshape", patches, build.constant(np.array([0, 16, -1])))
    tokens = build.node("Transpose", tokens, perm=[0, 2, 1])
    mean = build.node("ReduceMean", tokens, axes=[1], keepdims=1)
    return build.model(outputs=[build.node("Concat", mean, tokens, to="last_hidden_state", axis=1)])


DIALECTS: dict[str, Callable[[], ModelProto]] = {
    made.__name__: made
    for made in (
        classifier, old_opset, fused_softmax, written_out_softmax, channels_last, half_precision, bytes_in,
        one_image_only, convolution_as_head, several_outputs, two_classes_in_one, any_size, resizes_inside,
        names_like_ours, backbone, token_backbone,
    )
}  # fmt: skip


def colour_classifier(colours: Mapping[str, Sequence[int]], *, named: bool = True) -> ModelProto:
    """Tells colours by how far the mean of x/255 is from each; its head reads how far each channel is."""
    build = Builder()
    count = len(colours)
    shades = np.array(list(colours.values()), np.float32).reshape(-1) / 255
    away = np.concatenate((np.tile(np.eye(3), count), -np.tile(np.eye(3), count)), axis=1).astype(np.float32)
    less = np.concatenate((-shades, shades))
    hidden = build.node("Gemm", build.pooled("image"), build.constant(away), build.constant(less))
    sums = -20 * np.tile(np.repeat(np.eye(count), 3, axis=0), (2, 1)).astype(np.float32)
    logits = build.node("MatMul", build.node("Relu", hidden), build.constant(sums))
    return build.model(outputs=[logits], metadata={"classes": json.dumps(list(colours))} if named else {})


def colour_backbone() -> ModelProto:
    """How far each channel's mean is from each of some shades, and no head."""
    model = colour_classifier({"a": (200, 40, 30), "b": (40, 180, 60), "c": (30, 60, 200)}, named=False)
    relu = model.graph.node.pop()  # the head
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(relu.input[0], FLOAT, None))
    return model


def colour_tokens(*, telling: str) -> ModelProto:
    """A backbone of 16 patches and a class token (17,3): one of the two kinds says what colour there is."""
    build = Builder()
    patches = build.node("AveragePool", "image", kernel_shape=[8, 8], strides=[8, 8])
    patches = build.node("Reshape", patches, build.constant(np.array([0, 3, 16], np.int64)))
    patches = build.node("Transpose", patches, perm=[0, 2, 1])
    one = build.node("ReduceMean", patches, axes=[1], keepdims=1)
    nothing = build.constant(np.zeros(1, np.float32)), build.constant(np.ones(3, np.float32))
    if telling == "cls":
        patches = build.node("Add", build.node("Mul", patches, nothing[0]), nothing[1])
    else:
        one = build.node("Add", build.node("Mul", one, nothing[0]), nothing[1])
    return build.model(outputs=[build.node("Concat", one, patches, axis=1)])


def written(model: ModelProto, folder: Path, name: str = "network", *, external: bool = False) -> Path:
    """Its file."""
    path = folder / f"{name}.onnx"
    if external:
        onnx.save_model(model, str(path), save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    else:
        onnx.save_model(model, str(path))
    return path
