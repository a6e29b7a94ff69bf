"""ONNX graphs that were exported for a number of images: made to take any number. Needs onnx."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from secondlook.model.networks.onnx_walk import Walk, attribute

BATCH = "secondlook.batch"


def free_batch(model: ModelProto, image: str, batch: int) -> ModelProto:
    """A copy of a graph whose images (tensor ``image``) were ``batch``, with that number free.

    Exporters write it into the shapes that tensors are brought to, and into constants that are concatenated with
    tensors of the images (a class token). Whether the copy computes the same has to be tried.
    """
    known = _shapes(model)
    freed = ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    walk = Walk(graph, image)
    before: dict[int, list[NodeProto]] = {}
    is_sized = False
    for place, node in enumerate(graph.node):
        if walk.seen.isdisjoint(node.input):
            continue
        if node.op_type in ("Reshape", "Expand") and node.input[0] in walk.seen:
            shape = walk.constant(node.input[1])
            if shape is not None and shape.size and (changed := _freed(node.op_type, shape, batch)) is not None:
                node.input[1] = f"{BATCH}.shape.{place}"
                graph.initializer.append(numpy_helper.from_array(changed, node.input[1]))
        elif node.op_type == "Concat" and (axis := attribute(node, "axis")) is not None and axis.i != 0:
            for i, name in enumerate(node.input):
                dims = known.get(name)
                if name in walk.seen or dims is None or len(dims) < 2 or dims[0] not in (1, batch):
                    continue
                is_sized = True
                before.setdefault(place, []).extend(_expanded(graph, name, len(dims), f"{BATCH}.{place}.{i}"))
                node.input[i] = f"{BATCH}.{place}.{i}"
    nodes: list[NodeProto] = _counting(graph, image) if is_sized else []
    for place, node in enumerate(graph.node):
        nodes.extend((*before.get(place, ()), node))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    for value in graph.input:
        if value.name == image:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return freed


def _freed(kind: str, shape: np.ndarray, batch: int) -> np.ndarray | None:
    changed = shape.astype(np.int64)
    if kind == "Expand":  # 1 leaves a dimension as it is
        if shape[0] != batch:
            return None
        changed[0] = 1
        return changed
    if -1 not in shape:
        changed[0] = -1  # also where it is the images times something else, such as windows
    elif shape[0] == batch:
        changed[0] = 0  # as it was before
    else:
        return None
    return changed


def _counting(graph: onnx.GraphProto, image: str) -> list[NodeProto]:
    for name, value in ((f"{BATCH}.0", [0]), (f"{BATCH}.1", [1])):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    return [
        helper.make_node("Shape", [image], [f"{BATCH}.all"]),
        helper.make_node("Slice", [f"{BATCH}.all", f"{BATCH}.0", f"{BATCH}.1"], [BATCH]),
    ]


def _expanded(graph: onnx.GraphProto, name: str, rank: int, made: str) -> list[NodeProto]:
    graph.initializer.append(helper.make_tensor(f"{made}.ones", TensorProto.INT64, [rank - 1], [1] * (rank - 1)))
    return [
        helper.make_node("Concat", [BATCH, f"{made}.ones"], [f"{made}.shape"], axis=0),
        helper.make_node("Expand", [name, f"{made}.shape"], [made]),
    ]


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Of every tensor for which they follow from the graph."""
    weightless = ModelProto()
    weightless.CopyFrom(model)
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(weightless, data_prop=True)
    except Exception:  # of many kinds; what is not known stays as it is
        return known
    for value in inferred.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.dim_value > 0 for dim in dims):
            known[value.name] = tuple(dim.dim_value for dim in dims)
    return known
