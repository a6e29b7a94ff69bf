"""ONNX graphs in memory, on ONNX Runtime, however large. Needs onnx."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from secondlook.model.errors import NetworkError
from secondlook.model.networks.onnx_walk import pruned

MOST_BYTES = (1 << 31) - (1 << 24)
"""Of a graph in one piece: a protobuf holds 2 GiB."""
_SMALL = 1024
"""Bytes: tensors up to this stay in a graph, where ONNX Runtime reads shapes and the like while it loads."""
_PLAIN = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8),
        *(TensorProto.INT32, TensorProto.INT64),
    }
)


class Parted(NamedTuple):
    """A graph without its weights, and these: sessions of one graph share them."""

    model: ModelProto
    weights: dict[str, NDArray[Any]]


def parted(model: ModelProto) -> Parted:
    """Both, of a graph that stays as it is."""
    weights: dict[str, NDArray[Any]] = {}
    made = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = made.graph
    graph.name = model.graph.name
    for name in ("node", "input", "output", "sparse_initializer"):
        getattr(graph, name).extend(getattr(model.graph, name))
    for tensor in model.graph.initializer:
        if tensor.data_type not in _PLAIN or tensor_bytes(tensor) <= _SMALL:
            graph.initializer.append(tensor)
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        graph.initializer.append(_stub(tensor))
    return Parted(made, weights)


def _stub(tensor: TensorProto) -> TensorProto:
    """A tensor whose values are given to a session beside its graph."""
    made = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="given")
    return made


def tensor_bytes(tensor: TensorProto) -> int:
    """Of its values, wherever they are."""
    return int(np.prod(tensor.dims)) * helper_itemsize(tensor.data_type)


def helper_itemsize(data_type: int) -> int:
    """Bytes of a number of that type; of types narrower than a byte, 1."""
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def weight_bytes(model: ModelProto) -> int:
    """Of its initialisers."""
    return sum(tensor_bytes(tensor) for tensor in model.graph.initializer)


def save(model: ModelProto, path: Path) -> None:
    """Write a graph; with weights over 2 GiB, those to ``path`` and ``.data``."""
    if weight_bytes(model) < MOST_BYTES:
        path.write_bytes(model.SerializeToString())
        return
    data = f"{path.name}.data"
    (path.parent / data).unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=1024)
    external_data_helper.load_external_data_for_model(model, str(path.parent))  # saving took the weights out


class Runner:
    """A graph that gives any of its tensors."""

    def __init__(self, model: ModelProto, name: str, threads: int = 0) -> None:
        self.model, self._name, self._threads = model, name, threads or os.cpu_count() or 1
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}
        self._parted: Parted | None = None
        self._values: dict[str, onnxruntime.OrtValue] = {}

    def run(self, image: str, values: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The tensors ``names`` for one batch.

        Raises:
            NetworkError: ONNX Runtime cannot run it.
        """
        wanted = tuple(dict.fromkeys(names))
        try:
            session = self._sessions.get(wanted) or self._session(wanted)
            found = session.run(list(wanted), {image: values})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise NetworkError(f"{self._name} does not run on ONNX Runtime: {_why(error)}") from error
        return dict(zip(wanted, found, strict=True))

    def _session(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        """One that computes what ``names`` need and nothing else; the two last ones are kept."""
        if self._parted is None:
            self._parted = parted(self.model)
            self._values = {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
                for name, value in self._parted.weights.items()
            }
        graph = ModelProto()
        graph.CopyFrom(self._parted.model)
        pruned(graph, names)
        given = [tensor.name for tensor in graph.graph.initializer if tensor.name in self._values]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # what a batch took is given back
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
        options.add_external_initializers(given, [self._values[name] for name in given])
        while len(self._sessions) > 1:
            del self._sessions[next(iter(self._sessions))]
        made = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        self._sessions[names] = made
        return made


def _why(error: Exception) -> str:
    """The part of a message that says something to a person."""
    text = str(error).replace("\n", " ")
    for mark in ("Error in Node:", "Non-zero status code", "failed:", "INVALID_GRAPH :", "NOT_IMPLEMENTED :", "FAIL :"):
        if mark in text:
            text = text[text.index(mark) :]
            break
    return text[:200].strip()
