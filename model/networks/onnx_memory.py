"""How much memory a network takes to be looked at and made an encoder of, said before that. Needs onnx."""

from __future__ import annotations

import heapq

import numpy as np
from onnx import ModelProto, ValueInfoProto, shape_inference

from secondlook.model.memory import check_memory
from secondlook.model.networks.onnx_weights import tensor_bytes

COPIES = 4
"""Of the weights: as they are read, in the session that runs the network, in the encoder's file, and in the session
that proves it. 2.1 GB of weights took 10.3 GB when one more session was kept."""
IMAGES = 5
"""That are run at once."""
AT_ONCE = 128
"""Layers that are looked at in one run: all at once could take much memory."""


def check_network_memory(model: ModelProto, name: str) -> None:
    """Refuse a network that would not fit.

    Raises:
        MemoryLimitError: it would not.
    """
    weights = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    activations = IMAGES * activation_bytes(model)
    check_memory(
        COPIES * weights + activations,
        f"{name}, with {weights / 1e6:,.0f} MB of weights,",
        "take a smaller network, or a machine with more memory; secondlook network --help lists what can be given",
    )


def activation_bytes(model: ModelProto) -> int:
    """Of one image, those of the layers that are looked at in one run; 0 where the graph does not say their shapes."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception:  # of many kinds, for graphs that run nevertheless
        return 0
    sizes = (4 * _numbers(value) for value in graph.value_info)
    return sum(heapq.nlargest(AT_ONCE, sizes))


def _numbers(value: ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    # A side without a number counts as 1: a network is not refused for what its graph does not say.
    sides = [max(1, dim.dim_value) for dim in dims]
    return int(np.prod(sides, dtype=np.int64))
