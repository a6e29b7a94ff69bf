"""ONNX graphs by their tensors: what makes each, what reads it, which depend on the images. Needs onnx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper


class Walk:
    """A graph by its tensors: what makes each, and which depend on the images."""

    def __init__(self, graph: GraphProto, image: str) -> None:
        self.image = image
        self.producer = {output: node for node in graph.node for output in node.output if output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.seen = {image}
        """Tensors that depend on the images."""
        for node in graph.node:
            if not self.seen.isdisjoint(reads(node)):
                self.seen.update(output for output in node.output if output)
        self._consumers: dict[str, list[NodeProto]] | None = None
        self._graph = graph

    def consumers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read a tensor."""
        if self._consumers is None:
            self._consumers = {}
            for node in self._graph.node:
                for name in set(reads(node)):
                    self._consumers.setdefault(name, []).append(node)
        return self._consumers.get(tensor, [])

    def data(self, node: NodeProto) -> list[str]:
        """Its inputs that depend on the images."""
        return [name for name in node.input if name in self.seen]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a tensor that is written in the graph and no weight."""
        if (tensor := self.constants.get(name)) is not None:
            return None if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
                if attribute.name == "value_ints":
                    return np.array(attribute.ints, np.int64)
        return None

    def shape_of_constant(self, name: str) -> tuple[int, ...] | None:
        """Its shape, without its values."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        value = self.constant(name)
        return None if value is None else value.shape


def reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those inside of its branches and loops too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from reads(inner)


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """One of its attributes."""
    return next((found for found in node.attribute if found.name == name), None)


def pruned(model: ModelProto, outputs: Sequence[str]) -> None:
    """Leave in a graph what its tensors ``outputs`` need, which become its outputs."""
    graph = model.graph
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    known = {value.name: value for value in (*graph.output, *graph.value_info)}
    del graph.output[:], graph.value_info[:]
    graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in outputs)
