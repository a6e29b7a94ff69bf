"""The engine on OpenVINO: an exported encoder on a processor, in the precision asked for. Needs openvino."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import EngineError
from secondlook.model.networks.engines import Encoding, check_no_other_files, give_back_memory

Arithmetic = Literal["f32", "bf16"]
"""As OpenVINO calls it."""


def import_openvino() -> Any:
    """The package, without the telemetry that comes with some of its tools.

    Where ``openvino-telemetry`` is installed, importing openvino writes to ``~/intel`` and sends what it was used for.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # as Python marks what is not there
    import openvino

    return openvino


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """An exported encoder on OpenVINO, with so many threads; 0 = all cores.

    Weights in a file of their own are mapped, and lie in memory once; those in the graph's own file, twice. What the
    graph has in float32 is computed in ``arithmetic``; what it has quantised, in 8 bits.

    Raises:
        EngineError: the file is not an encoder's graph, takes weights from another file than ``DATA`` beside it, or the
            processor has no such arithmetic.
        ModuleNotFoundError: OpenVINO is not installed.
    """

    def __init__(self, path: Path, threads: int = 0, *, arithmetic: Arithmetic = "f32") -> None:
        openvino = import_openvino()
        if arithmetic == "bf16" and not has_bfloat16():
            raise EngineError("this processor has no bfloat16: use float32")
        check_no_other_files(path)
        try:
            compiled = openvino.Core().compile_model(
                path,
                "CPU",
                {
                    # By itself it takes bfloat16 for float32 where the processor has AMX.
                    "INFERENCE_PRECISION_HINT": arithmetic,
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
                    # Each of several workers would pin its threads to the same cores.
                    "ENABLE_CPU_PINNING": False,
                },
            )
            _, height, width, _ = compiled.input("images").get_partial_shape()
            self.size = (height.get_length(), width.get_length())
            self._outputs = {name: output for output in compiled.outputs for name in output.get_names()}
            widths = {name: self._outputs[name].get_partial_shape()[1].get_length() for name in self._outputs}
            self.classes, self.dim = widths.get("logits", 0), widths["keys"]
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise EngineError(f"{path.name} is not an encoder that OpenVINO can run") from error
        give_back_memory()
        self.name = f"openvino {openvino.__version__.partition('-')[0]}"

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """One run of the graph."""
        found = self._request.infer({"images": np.ascontiguousarray(images)}, share_inputs=True, share_outputs=True)
        keys = np.array(found[self._outputs["keys"]], np.float32)
        if not self.classes:
            return Encoding(np.empty((len(images), 0), np.float32), keys)
        return Encoding(np.array(found[self._outputs["logits"]], np.float32), keys)
