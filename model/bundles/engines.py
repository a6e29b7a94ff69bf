"""The engines that a bundle's encoder may run on, on a processor."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from secondlook.model.bundles.files import ENCODER
from secondlook.model.networks.engines import Engine, EngineName, OnnxEngine

INT8, INT8_DATA = "encoder.int8.xml", "encoder.int8.bin"
"""A bundle's files of the encoder in 8 bits, where it keeps the answers: OpenVINO's graph, and its weights."""
REDUCED: tuple[EngineName, ...] = ("openvino-bf16", "openvino-int8")
"""Those of reduced precision, which may run where the bundle's manifest says so."""


def has_openvino() -> bool:
    """Whether it is installed."""
    return find_spec("openvino") is not None


def open_engine(folder: Path, name: EngineName, threads: int = 0, *, spare_core: bool = False) -> Engine:
    """Open the encoder in a bundle's folder on an engine, with so many threads (0 = all cores).

    Raises:
        EngineError: it does not run there.
        ModuleNotFoundError: OpenVINO is not installed.
    """
    if name == "onnxruntime":
        return OnnxEngine(folder / ENCODER, threads, spare_core=spare_core)
    from secondlook.model.networks.openvino_engine import OpenVinoEngine

    if name == "openvino-int8":
        return OpenVinoEngine(folder / INT8, threads, precision="int8")
    return OpenVinoEngine(folder / ENCODER, threads, precision="bf16" if name == "openvino-bf16" else "f32")
