"""The head of an ONNX graph: the layer that gives logits; and graphs that are for another task. Needs onnx."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

from secondlook.model.errors import NetworkError
from secondlook.model.networks.onnx_walk import Walk

_SHAPES_ONLY = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Transpose"})
_AFTER_HEAD = _SHAPES_ONLY | {
    *("Add", "Sub", "Mul", "Div", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
    *("GlobalAveragePool", "ReduceMean", "AveragePool"),
}
_SUMS = frozenset({"Add", "Sum", "Mean"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "HardSwish", "Gelu", "Elu"})
_LINEAR = frozenset({"Gemm", "MatMul", "Conv", "FusedGemm", "FusedMatMul", "FusedConv", "QGemm", "QLinearMatMul",
                     "QLinearConv", "MatMulInteger", "ConvInteger", "MatMulNBits"})  # fmt: skip
_PREFIXES = (0, 1, 2, 4, 5, 8)
"""Class, distillation and register tokens that vision transformers have."""
_WIDE = 1 / 8
"""Of the image's side: an output with more positions says something of each of them (segmentation, depth)."""
_LOGITS = ("logit", "prob", "class", "score", "pred", "softmax", "output")
_FEATURES = ("embed", "feature", "hidden", "pooler", "pooled", "token")

Squash = Literal["none", "softmax", "log_softmax", "sigmoid"]


class Head(NamedTuple):
    """The layer that gives logits."""

    logits: str
    """A tensor, (B,C) but for dimensions of 1: before the softmax, where the graph has one."""
    input: str
    """The tensor that the last linear layer reads."""
    squash: Squash
    """What the graph makes of the logits."""
    output: str
    """The graph's output that it was found at."""


def find_head(walk: Walk, output: ValueInfoProto, names: tuple[str, ...] | None) -> Head | None:
    """The head at one of a graph's outputs; None where that is no classifier's."""
    if output.name not in walk.seen or output.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32):
        return None
    logits, squash = _before_squash(walk, output.name)
    if squash == "none" and any(word in output.name.lower() for word in _FEATURES):
        return None
    linear, tensor = _linear(walk, logits), logits
    while linear is None and (node := walk.producer.get(tensor)) is not None:
        data = walk.data(node)
        if len(data) > 1 and node.op_type in _SUMS:
            return _averaged(walk, data, Head(logits, data[0], squash, output.name))
        if len(data) != 1 or node.op_type not in _AFTER_HEAD:
            return None
        tensor = data[0]
    if linear is None:
        return None
    is_known = squash != "none" or (names is not None and len(names) in linear.weight) or 1000 in linear.weight[:2]
    # A convolution with an activation behind it is a backbone's last layer, but for SqueezeNet.
    return None if linear.activated and not is_known else Head(logits, linear.input, squash, output.name)


class _Linear(NamedTuple):
    """The last linear layer before a tensor."""

    input: str
    weight: tuple[int, ...]
    activated: bool
    """Whether an activation lies between them."""


def _linear(walk: Walk, tensor: str) -> _Linear | None:
    activated = False
    while (node := walk.producer.get(tensor)) is not None:
        data = walk.data(node)
        if node.op_type in _LINEAR:
            weight = _weight_shape(walk, node)
            if len(data) != 1 or weight is None or (node.op_type.endswith("Conv") and set(weight[2:]) - {1}):
                return None
            return _Linear(data[0], weight, activated)
        if len(data) != 1 or node.op_type not in _AFTER_HEAD | _ACTIVATIONS:
            return None
        activated |= node.op_type in _ACTIVATIONS
        tensor = data[0]
    return None


def _averaged(walk: Walk, branches: Sequence[str], head: Head) -> Head | None:
    """The head whose logits are a sum of several linear layers', as DeiT's of its class and distillation tokens."""
    found = [_linear(walk, branch) for branch in branches]
    parts = [part for part in found if part is not None and not part.activated and len(part.weight) == 2]
    are_alike = len(parts) == len(branches) and len({part.weight for part in parts}) == 1
    return head._replace(input=parts[0].input) if are_alike else None


def _before_squash(walk: Walk, tensor: str) -> tuple[str, Squash]:
    """The tensor that a softmax (or sigmoid) at the end is of; the same one where there is none."""
    start = tensor
    kinds: dict[str, Squash] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
    while (node := walk.producer.get(tensor)) is not None:
        if node.op_type in kinds:
            return node.input[0], kinds[node.op_type]
        if node.op_type == "Div" and (exp := walk.producer.get(node.input[0])) is not None and exp.op_type == "Exp":
            total = walk.producer.get(node.input[1])
            if total is not None and total.op_type == "ReduceSum" and total.input[0] == node.input[0]:
                less = walk.producer.get(exp.input[0])
                is_shifted = less is not None and less.op_type == "Sub"
                return (less.input[0] if is_shifted and less is not None else exp.input[0]), "softmax"
        if node.op_type not in _SHAPES_ONLY:
            break
        tensor = node.input[0]
    return start, "none"


def _weight_shape(walk: Walk, node: NodeProto) -> tuple[int, ...] | None:
    """Of a linear layer's weights, which may be cast, transposed or dequantised first."""
    for name in node.input:
        if name in walk.seen:
            continue
        while name not in walk.constants and (maker := walk.producer.get(name)) is not None and maker.input:
            name = maker.input[0]
        shape = walk.shape_of_constant(name)
        if shape is not None and len(shape) >= 2:
            return shape
    return None


def likelihood(head: Head) -> tuple[bool, bool]:
    """Orders the heads of several outputs."""
    return head.squash != "none", any(word in head.output.lower() for word in _LOGITS)


_OTHER_TASKS = {
    "detect": "finds objects",
    "segment": "outlines objects",
    "pose": "finds poses",
    "obb": "finds objects",
    "depth": "measures depth",
}


def check_task(graph: GraphProto, metadata: dict[str, str], name: str) -> None:
    """Refuse what says itself that it is no classifier."""
    does = _OTHER_TASKS.get(metadata.get("task", ""))
    if does is None and any("NonMaxSuppression" in node.op_type or "NMS" in node.op_type for node in graph.node):
        does = "finds objects"
    if does is not None:
        raise other_task(name, does)


def other_task(name: str, does: str) -> NetworkError:
    """What is said of a network that is neither a classifier nor a backbone."""
    return NetworkError(
        f"{name} {does}, it does not classify images: export a classifier, or its backbone alone, with one output of "
        "features"
    )


def check_shapes(name: str, has_head: bool, shapes: Sequence[tuple[int, ...]], size: tuple[int, int]) -> None:
    """Refuse a graph by the shapes (without the batch) of its outputs.

    Raises:
        NetworkError: they are boxes, or something for each place of the image.
    """
    if any(len(shape) == 2 and shape[-1] == 4 for shape in shapes):
        raise other_task(name, "finds objects")
    for shape in shapes:
        if len(shape) == 3 and any(
            a > size[0] * _WIDE and b > size[1] * _WIDE and a * size[1] == b * size[0]
            for a, b in (shape[1:], shape[:2])
        ):
            raise other_task(name, "says something of each place of an image")
        if len(shape) == 2 and not has_head and token_prefix(shape[0], size) is None:
            raise other_task(name, f"gives {shape[0]:,} x {shape[1]:,} numbers for an image")


def token_prefix(tokens: int, size: tuple[int, int]) -> int | None:
    """How many of so many tokens stand for no place of an image of that size; None where they are no grid of patches.

    A grid has patches of a whole number of pixels, the same in both directions.
    """
    height, width = size
    for prefix in _PREFIXES:
        places = tokens - prefix
        patch = math.sqrt(height * width / places) if places >= 4 else 0.0
        if patch >= 2 and patch == int(patch) and height % patch == 0 and width % patch == 0:
            return prefix
    return None
