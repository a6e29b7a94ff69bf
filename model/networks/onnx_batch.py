"""ONNX graphs that were exported for a number of images: made to take any number. Needs onnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from secondlook.model.networks.onnx_walk import Walk, attribute

BATCH = "secondlook.batch"
_SHAPED = ("Reshape", "Expand")


def written(model: ModelProto, image: str) -> tuple[str, ...]:
    """The tensors that ``free_batch`` has to know: where a number of images may be written, and what that reshapes."""
    walk = Walk(model.graph, image)
    found: list[str] = []
    for node in model.graph.node:
        if node.op_type in _SHAPED and node.input[0] in walk.seen and node.input[1] not in walk.seen:
            found.extend((node.input[1], node.input[0]))
        elif _joins(node) and not walk.seen.isdisjoint(node.input):
            found.extend(name for name in node.input if name not in walk.seen)
    return tuple(dict.fromkeys(found))


def free_batch(
    model: ModelProto, image: str, batch: int, values: Mapping[str, NDArray[Any]], *, images_first: bool = True
) -> ModelProto:
    """A copy of a graph whose images (tensor ``image``) were ``batch``, with that number free.

    Exporters write it into the shapes that tensors are brought to, and into constants that are concatenated with
    tensors of the images (a class token); ``values`` are those that ``written`` names. The images are the first
    dimension of a shape, or else that which is as long as the batch: attention in PyTorch has positions first. Whether
    the copy computes the same has to be tried.
    """
    freed = ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    walk = Walk(graph, image)
    before: dict[int, list[NodeProto]] = {}
    is_sized = False
    for place, node in enumerate(graph.node):
        if walk.seen.isdisjoint(node.input):
            continue
        if node.op_type in _SHAPED and node.input[0] in walk.seen:
            shape = values.get(node.input[1])
            given = values.get(node.input[0])
            if shape is None or not shape.size:
                continue
            at = 0 if images_first or given is None else _images_in(shape, given.shape, batch)
            if (changed := _freed(node.op_type, shape, batch, at)) is not None:
                node.input[1] = f"{BATCH}.shape.{place}"
                graph.initializer.append(numpy_helper.from_array(changed, node.input[1]))
        elif _joins(node):
            for i, name in enumerate(node.input):
                value = values.get(name)
                if value is None or value.ndim < 2 or len(value) not in (1, batch):
                    continue
                is_sized = True
                tensor = f"{BATCH}.{place}.{i}.of"
                graph.initializer.append(numpy_helper.from_array(value[:1], tensor))
                before.setdefault(place, []).extend(_expanded(graph, tensor, value.ndim, f"{BATCH}.{place}.{i}"))
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


def _joins(node: NodeProto) -> bool:
    axis = attribute(node, "axis")
    return node.op_type == "Concat" and axis is not None and axis.i != 0


def _freed(kind: str, shape: NDArray[Any], batch: int, at: int) -> NDArray[Any] | None:
    changed = shape.astype(np.int64)
    if kind == "Expand":  # 1 leaves a dimension as it is
        if shape[at] != batch:
            return None
        changed[at] = 1
        return changed
    if -1 not in shape:
        changed[at] = -1  # also where it is the images times something else, such as windows
    elif shape[at] == batch:
        changed[at] = 0  # as it was before
    else:
        return None
    return changed


def _images_in(shape: NDArray[Any], before: tuple[int, ...], batch: int) -> int:
    """The dimension of a shape that grows with the images, by what was of another shape before."""
    wanted = [int(side) for side in shape]
    if batch in wanted:
        return wanted.index(batch)
    if batch in before:  # the same numbers lie before it
        lie_before = int(np.prod(before[: before.index(batch)]))
        for at in range(len(wanted)):
            if int(np.prod(wanted[:at])) == lie_before:
                return min(at, max(0, len(wanted) - 2))  # never the last, which are channels
    return 0


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
