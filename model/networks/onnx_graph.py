"""What an ONNX graph is: where images go in, where its head is, which classes it knows.

Nothing is run here; ``onnx_network`` does that. Needs onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from secondlook.model.errors import NetworkError
from secondlook.model.networks.declared import class_names
from secondlook.model.networks.onnx_head import Head, check_task, find_head, likelihood
from secondlook.model.networks.onnx_walk import Walk, attribute
from secondlook.model.networks.onnx_weights import Weighted, Weights, load, weights_sha256
from secondlook.model.networks.preprocess import Layout

OLDEST_OPSET = 9
EXPORT = "torch.onnx.export(module, (images,), 'network.onnx', dynamo=True, dynamic_shapes=({0: 'batch'},))"
"""What a person with PyTorch is told to type."""

LAYERS = "secondlook.layers"
"""The key of an ONNX file's metadata for how many of its outputs, the last, are layers of the module it is made of."""

_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
_TYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64",
          TensorProto.UINT8: "uint8"}  # fmt: skip
_ELEMENTWISE = frozenset(
    {"Cast", "Identity", "Sub", "Add", "Mul", "Div", "Clip", "Transpose", "BatchNormalization", "Dropout", "Concat"}
)


class ImageInput(NamedTuple):
    """How a graph takes images."""

    name: str
    layout: Layout
    size: tuple[int, int] | None
    """Height and width; None where it takes any."""
    dtype: str
    batch: int | None
    """The only number of images that it takes; None where it takes any."""


@dataclass(frozen=True)
class OnnxGraph:
    """A graph with one image input."""

    model: ModelProto
    weights: Weights
    """Its large tensors, which the model names only."""
    name: str
    """Of its file."""
    input: ImageInput
    heads: tuple[Head, ...]
    """Those that its outputs may be, the likeliest one first; none of a backbone."""
    metadata: dict[str, str]
    class_names: tuple[str, ...] | None
    resizes: bool
    """Whether it resizes images itself before anything else."""

    @property
    def weighted(self) -> Weighted:
        """The model with its weights."""
        return Weighted(self.model, self.weights)

    @property
    def weights_sha256(self) -> str:
        """Of all that is written in it."""
        return weights_sha256(self.weighted)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(output.name for output in self.model.graph.output)

    @property
    def own_outputs(self) -> tuple[str, ...]:
        """Those that are no layers of the module that it was made of."""
        return self.outputs[: len(self.outputs) - _layer_count(self.metadata)]

    @property
    def head(self) -> Head | None:
        """The one in use."""
        return self.heads[0] if self.heads else None


def read_graph(path: Path) -> OnnxGraph:
    """Read a file, and the weights that lie beside it.

    Raises:
        NetworkError: it is no ONNX file, its weights are missing, or it is no graph that makes of images alone what
            a classifier or a backbone does.
    """
    try:
        graph = load(path)
    except FileNotFoundError as error:
        if error.filename not in (None, str(path)):
            raise NetworkError(
                f"{path.name} has its weights in another file, {Path(error.filename).name}, which is not beside it: "
                "put it there, or export again"
            ) from error
        raise NetworkError(f"there is no file {path}: name one, as in secondlook network X.onnx") from error
    except IsADirectoryError as error:
        raise NetworkError(f"{path} is a folder: name the .onnx file in it") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise NetworkError(f"{path.name} cannot be read whole ({_short(error)}): export it again") from error
    except Exception as error:  # protobuf's, which is no dependency of ours
        raise NetworkError(f"{path.name} is no ONNX file: export the network with {EXPORT}") from error
    return graph_of(graph, path.name)


def graph_of(graph: Weighted, name: str) -> OnnxGraph:
    """What a graph is, of a file called ``name``.

    Raises:
        NetworkError: as for ``read_graph``.
    """
    model, weights = graph
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if not model.graph.node:
        raise NetworkError(f"{name} is no ONNX file with a network: export the network with {EXPORT}")
    _check_operators(model, name)
    taken = _image_input(model.graph, name)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    names = class_names(metadata)
    check_task(model.graph, metadata, name)
    walk = Walk(model.graph, taken.name)
    own = list(model.graph.output)[: len(model.graph.output) - _layer_count(metadata)]
    heads = sorted(
        (found for output in own if (found := find_head(walk, output, names)) is not None),
        key=likelihood,
        reverse=True,
    )
    return OnnxGraph(model, weights, name, taken, tuple(heads), metadata, names, _resizes(walk))


def _check_operators(model: ModelProto, name: str) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise NetworkError(f"{name} is of opset {opset}: export it again, of opset 17, say ({EXPORT})")
    strange = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _STANDARD_DOMAINS}
    )
    if strange:
        raise NetworkError(
            f"{name} has operators that are not ONNX's own ({', '.join(strange[:3])}): "
            f"export it without them ({EXPORT})"
        )


def _image_input(graph: GraphProto, name: str) -> ImageInput:
    given = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in given]
    images = [value for value in inputs if _may_be_images(value)]
    if not images:
        said = " and ".join(_said(value) for value in inputs) or "nothing"
        what = "a text encoder" if any(_is_text(value) for value in inputs) else "no network for images"
        raise NetworkError(
            f"{name} has no image input, float (batch,3,height,width) or the like: it takes {said}, so it is {what}: "
            "give the part of it that takes images"
        )
    if len(inputs) > 1:
        others = [_said(value) for value in inputs if value is not images[0]]
        raise NetworkError(
            f"{name} takes more than images ({_said(images[0])}): {' and '.join(others)} too. "
            f"Export the part that takes images alone ({EXPORT})"
        )
    (value,) = images
    batch, *rest = _dims(value)
    layout = _layout(graph, value.name, rest, name)
    channels, sides = (rest[0], rest[1:]) if layout == "NCHW" else (rest[2], rest[:2])
    if channels not in (None, 3):
        raise NetworkError(
            f"{name} takes images of {channels} channel{'s' if channels > 1 else ''}, not of 3: "
            "give a network for colour images"
        )
    size = (sides[0], sides[1]) if sides[0] and sides[1] else None
    return ImageInput(value.name, layout, size, _TYPES[value.type.tensor_type.elem_type], batch)


def _may_be_images(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in _TYPES and len(_dims(value)) == 4


def _is_text(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING)


def _dims(value: ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]


def _said(value: ValueInfoProto) -> str:
    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    dims = ",".join(str(dim) if dim else "?" for dim in _dims(value))
    return f"{value.name} ({kind} {dims})" if dims else f"{value.name} ({kind})"


def _layout(graph: GraphProto, image: str, dims: list[int | None], name: str) -> Layout:
    first, last = dims[0], dims[2]
    if first == 3 and last != 3:
        return "NCHW"
    if last == 3 and first != 3:
        return "NHWC"
    walk = Walk(graph, image)
    tensors = [image]
    while tensors:
        for node in walk.consumers(tensors.pop()):
            if node.op_type == "Transpose":
                perm = attribute(node, "perm")
                return "NHWC" if perm is not None and list(perm.ints) == [0, 3, 1, 2] else "NCHW"
            if node.op_type == "Conv":
                return "NCHW"
            if node.op_type in _ELEMENTWISE:
                tensors.extend(node.output)
    if first is not None and last is None:
        return "NCHW"
    if last is not None and first is None:
        return "NHWC"
    if first in (1, 4):
        return "NCHW"
    if last in (1, 4):
        return "NHWC"
    raise NetworkError(
        f"{name} does not say which of its input's dimensions are colours: export it with (batch,3,height,width)"
    )


def _layer_count(metadata: dict[str, str]) -> int:
    said = metadata.get(LAYERS, "")
    return int(said) if said.isdecimal() else 0


def _resizes(walk: Walk) -> bool:
    tensors = [walk.image]
    while tensors:
        for node in walk.consumers(tensors.pop()):
            if node.op_type in ("Resize", "Upsample"):
                return True
            if node.op_type in _ELEMENTWISE:
                tensors.extend(node.output)
    return False


def _short(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]
