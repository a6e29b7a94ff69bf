"""A linear head in an encoder's graph: ``logits`` = keys times weights, and a bias. Needs onnx, never torch.

The rest of the graph is not touched, weights in a file beside it neither: a head is added, exchanged and taken out
within the graph's file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, load_model, numpy_helper

from secondlook.model.cache import Floats
from secondlook.model.errors import EngineError
from secondlook.model.networks.engines import Encoding, OnnxEngine
from secondlook.model.networks.onnx_network import TOLERANCE

NODE, WEIGHTS, BIAS = "secondlook/head", "secondlook/head/weights", "secondlook/head/bias"
LOGITS = "logits"


def has_linear_head(path: Path) -> bool:
    """Whether an encoder's head is one that ``set_linear_head`` put in."""
    return _has_head(load_model(path, load_external_data=False))


def set_linear_head(path: Path, weights: Floats, bias: Floats) -> OnnxEngine:
    """Put a head with weights (C,D) and a bias (C,) into an encoder's file, in the place of an earlier linear one.

    Raises:
        EngineError: the encoder has a head of its own, keys of another width than D, or does not run with this one.
    """
    model = load_model(path, load_external_data=False)
    _take_out(model)
    graph = model.graph
    if any(output.name == LOGITS for output in graph.output):
        raise EngineError(f"{path.name} has a head of its own: index again with --network and --head linear")
    (width,) = (output.type.tensor_type.shape.dim[1].dim_value for output in graph.output if output.name == "keys")
    if width != weights.shape[1]:
        raise EngineError(f"{path.name} gives keys of {width:,} numbers, and the head takes {weights.shape[1]:,}")
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights.T, np.float32), WEIGHTS))
    graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), BIAS))
    graph.node.append(helper.make_node("Gemm", ["keys", WEIGHTS, BIAS], [LOGITS], NODE))
    graph.output.insert(0, helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(weights)]))
    _write(model, path)
    return OnnxEngine(path)


def take_out_linear_head(path: Path) -> OnnxEngine:
    """The same encoder's file without its linear head; as it is where it has none.

    Raises:
        EngineError: the file is not an encoder's.
    """
    model = load_model(path, load_external_data=False)
    if _has_head(model):
        _take_out(model)
        _write(model, path)
    return OnnxEngine(path)


def linear_head_of(path: Path) -> tuple[Floats, Floats]:
    """The weights (C,D) and the bias (C,) of an encoder's linear head.

    Raises:
        EngineError: it has none.
    """
    tensors = {tensor.name: tensor for tensor in load_model(path, load_external_data=False).graph.initializer}
    if not {WEIGHTS, BIAS} <= tensors.keys():
        raise EngineError(f"{path.name} has no linear head: index again with --network and --head linear")
    weights, bias = (np.asarray(numpy_helper.to_array(tensors[name]), np.float32) for name in (WEIGHTS, BIAS))
    return np.ascontiguousarray(weights.T), bias


def prove_linear_head(engine: OnnxEngine, images: NDArray[np.uint8], keys: Floats, head: tuple[Floats, Floats]) -> None:
    """Hold an encoder with a linear head to what it said of images (n,H,W,3) without: at once, and one by one.

    ``keys`` (n,D) is that, ``head`` its weights (C,D) and bias (C,).

    Raises:
        EngineError: its keys differ by more than 1e-3, or its logits from those of the keys by more than 1e-3 of the
            largest.
    """
    alone = [engine.encode(images[i : i + 1]) for i in range(len(images))]
    logits = keys @ head[0].T + head[1]
    most = TOLERANCE * max(1.0, float(np.abs(logits).max()))
    for found in (engine.encode(images), Encoding(*map(np.concatenate, zip(*alone, strict=True)))):
        if not (np.abs(found.keys - keys).max() <= TOLERANCE and np.abs(found.logits - logits).max() <= most):
            raise EngineError(f"{engine.name} does not give the keys and logits of the linear head: index again")


def _has_head(model: ModelProto) -> bool:
    return any(node.name == NODE and list(node.output) == [LOGITS] for node in model.graph.node)


def _take_out(model: ModelProto) -> None:
    if not _has_head(model):
        return
    for values, is_its in (
        (model.graph.node, lambda node: node.name == NODE),
        (model.graph.initializer, lambda tensor: tensor.name in (WEIGHTS, BIAS)),
        (model.graph.output, lambda output: output.name == LOGITS),
    ):
        for value in [value for value in values if is_its(value)]:
            values.remove(value)


def _write(model: ModelProto, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, path)
