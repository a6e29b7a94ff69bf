"""EfficientNet-Lite as an ONNX graph, made of its weights alone. Needs onnx, never torch.

Tan and Le, 'EfficientNet' (ICML 2019), in the form for small devices: ReLU6, no squeeze-and-excitation; as
tensorflow/tpu has it in models/official/efficientnet/lite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Tensors = Mapping[str, NDArray[Any]]

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of each stage's first block."""
_EPSILON = 1e-3
"""Of the batch normalisation."""


def efficientnet_lite(weights: Tensors, repeats: tuple[int, ...]) -> ModelProto:
    """The graph, of weights named as in efficientnet-lite-pytorch: images float32 (B,3,H,W) in, logits (B,C) out.

    B, H and W are free. ``features`` is the last feature map, ``pooled`` its mean over all positions.

    Raises:
        KeyError: a weight is not there.
    """
    made = _Layers(weights)
    tensor = made.convolution("images", "_conv_stem", "_bn0", "stem", stride=2)
    strides = [stride if first else 1 for stride, count in zip(STRIDES, repeats, strict=True)
               for first in (True, *[False] * (count - 1))]  # fmt: skip
    for number, stride in enumerate(strides):
        tensor = made.block(tensor, f"_blocks.{number}.", f"blocks.{number}", stride)
    tensor = made.convolution(tensor, "_conv_head", "_bn1", "features")
    made.node("Flatten", [made.node("GlobalAveragePool", [tensor], "pooled_map")], "pooled", axis=1)
    weight, bias = made.constant("fc.weight", weights["_fc.weight"]), made.constant("fc.bias", weights["_fc.bias"])
    made.node("Gemm", ["pooled", weight, bias], "logits", transB=1)
    graph = helper.make_graph(
        made.nodes,
        "efficientnet_lite",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(weights["_fc.bias"])])],
        made.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Layers:
    """Nodes and constants of a graph that grows."""

    def __init__(self, weights: Tensors) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._weights = weights
        self._least = self.constant("zero", np.float32(0))
        self._most = self.constant("six", np.float32(6))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def block(self, tensor: str, source: str, name: str, stride: int) -> str:
        """Wider, over positions, narrower; what came in is added where it has the same shape."""
        inside, channels = tensor, len(self._weights[f"{source}_depthwise_conv.weight"])
        if (wider := self._weights.get(f"{source}_expand_conv.weight")) is not None:
            inside, channels = (
                self.convolution(inside, f"{source}_expand_conv", f"{source}_bn0", f"{name}.expand"),
                wider.shape[1],
            )
        inside = self.convolution(inside, f"{source}_depthwise_conv", f"{source}_bn1", f"{name}.depthwise", stride)
        is_added = stride == 1 and len(self._weights[f"{source}_project_conv.weight"]) == channels
        last = f"{name}.project" if is_added else name
        inside = self.convolution(inside, f"{source}_project_conv", f"{source}_bn2", last, activated=False)
        return self.node("Add", [inside, tensor], name) if is_added else inside

    def convolution(
        self, tensor: str, source: str, norm: str, name: str, stride: int = 1, *, activated: bool = True
    ) -> str:
        """A convolution with the batch normalisation behind it folded in."""
        weight = self._weights[f"{source}.weight"]
        gain, shift, mean, variance = (
            self._weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + _EPSILON)
        kernel = weight.shape[2]
        folded = (weight * scale[:, None, None, None]).astype(np.float32)
        inputs = [
            tensor,
            self.constant(f"{name}.weight", folded),
            self.constant(f"{name}.bias", (shift - mean * scale).astype(np.float32)),
        ]
        # With a stride, what is filled up depends on the size: as TensorFlow does, more of it behind.
        filled: dict[str, Any] = {"auto_pad": "SAME_UPPER"} if stride > 1 else {"pads": [kernel // 2] * 4}
        groups = len(weight) if weight.shape[1] == 1 else 1
        out = self.node(
            "Conv", inputs, f"{name}.linear" if activated else name, kernel_shape=[kernel] * 2, strides=[stride] * 2,
            group=groups, **filled,
        )  # fmt: skip
        return self.node("Clip", [out, self._least, self._most], name) if activated else out
