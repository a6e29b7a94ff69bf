"""ONNX graphs in memory, on ONNX Runtime, however large. Needs onnx."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, external_data_helper

from secondlook.model.errors import NetworkError
from secondlook.model.networks.engines import DATA

MOST_BYTES = (1 << 31) - (1 << 24)
"""Of a graph in one piece: a protobuf holds 2 GiB."""


def weight_bytes(model: ModelProto) -> int:
    """Of its initialisers as they are written."""
    return sum(len(tensor.raw_data) or 4 * int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def save(model: ModelProto, path: Path, most_bytes: int = MOST_BYTES) -> None:
    """Write a graph; with weights of ``most_bytes`` or more, these to ``path`` and ``.data``."""
    data = f"{path.name}{DATA}"
    (path.parent / data).unlink(missing_ok=True)
    if weight_bytes(model) < most_bytes:
        path.write_bytes(model.SerializeToString())
        return
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=1024)
    external_data_helper.load_external_data_for_model(model, str(path.parent))  # saving took the weights out


class Runner:
    """A graph that gives any of its tensors."""

    def __init__(self, model: ModelProto, name: str, threads: int = 0) -> None:
        self.model, self._name, self._threads = model, name, threads or os.cpu_count() or 1
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}

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
        if len(self._sessions) > 3:
            self._sessions.clear()
        self._sessions[wanted] = session
        return dict(zip(wanted, found, strict=True))

    def _session(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = self.model
        before = [ValueInfoProto.FromString(output.SerializeToString()) for output in model.graph.output]
        there = {output.name for output in before}
        model.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in there)
        try:
            if weight_bytes(model) < MOST_BYTES:
                return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
                save(model, path := Path(folder) / "network.onnx")
                return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        finally:
            del model.graph.output[:]
            model.graph.output.extend(before)


def _why(error: Exception) -> str:
    """The part of a message that says something to a person."""
    text = str(error).replace("\n", " ")
    for mark in ("Error in Node:", "Non-zero status code", "failed:", "INVALID_GRAPH :", "NOT_IMPLEMENTED :", "FAIL :"):
        if mark in text:
            text = text[text.index(mark) :]
            break
    return text[:200].strip()
