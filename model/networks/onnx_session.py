"""ONNX graphs in memory, on ONNX Runtime, however large. Needs onnx."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from secondlook.model.errors import NetworkError
from secondlook.model.networks.onnx_walk import pruned
from secondlook.model.networks.onnx_weights import Weighted

KEPT, KEPT_OF_LARGE, LARGE = 2, 1, 1 << 29
"""Sessions, of what was asked for last, and of graphs with more bytes of weights: each has a copy of them."""


class Runner:
    """A graph that gives any of its tensors."""

    def __init__(self, graph: Weighted, name: str, threads: int = 0) -> None:
        self.graph, self._name, self._threads = graph, name, threads or os.cpu_count() or 1
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}
        is_large = sum(weight.nbytes for weight in graph.weights.values()) > LARGE
        self._kept = KEPT_OF_LARGE if is_large else KEPT
        self._values: dict[str, onnxruntime.OrtValue] = {}
        """The weights as ONNX Runtime takes them: where they lie, for all sessions."""

    def run(self, image: str, values: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The tensors ``names`` for one batch.

        Raises:
            NetworkError: ONNX Runtime cannot run it.
        """
        wanted = tuple(dict.fromkeys(names))
        try:
            if (session := self._sessions.pop(wanted, None)) is None:
                while len(self._sessions) >= self._kept:
                    del self._sessions[next(iter(self._sessions))]
                session = self._session(wanted)
            found = session.run(list(wanted), {image: values})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise NetworkError(f"{self._name} does not run on ONNX Runtime: {_why(error)}") from error
        self._sessions[wanted] = session
        return dict(zip(wanted, found, strict=True))

    def _session(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        """One that computes what ``names`` need and nothing else."""
        model = ModelProto()
        model.CopyFrom(self.graph.model)
        pruned(model, names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # what a batch took is given back
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
        given = [tensor.name for tensor in model.graph.initializer if tensor.name in self.graph.weights]
        options.add_external_initializers(given, [self._value(name) for name in given])
        return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def _value(self, name: str) -> onnxruntime.OrtValue:
        if name not in self._values:
            value = np.require(self.graph.weights[name], requirements=["C", "A"])
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value)
        return self._values[name]


def _why(error: Exception) -> str:
    """The part of a message that says something to a person."""
    text = str(error).replace("\n", " ")
    for mark in ("Error in Node:", "Non-zero status code", "failed:", "INVALID_GRAPH :", "NOT_IMPLEMENTED :", "FAIL :"):
        if mark in text:
            text = text[text.index(mark) :]
            break
    return text[:200].strip()
