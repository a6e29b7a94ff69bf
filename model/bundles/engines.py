"""The engines that a bundle's encoder may run on, on a processor."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from secondlook.model.bundles.files import ENCODER, ENCODER_DATA
from secondlook.model.networks.engines import Engine, EngineName, OnnxEngine

OLDER = "ONEDNN_MAX_CPU_ISA"
"""Holds oneDNN to an older processor's instructions. OpenVINO's own code does not know it, and the process dies."""
INT8, INT8_DATA = "encoder.int8.xml", "encoder.int8.bin"
"""A bundle's files of the encoder in 8 bits, where it keeps the answers: OpenVINO's graph, and its weights."""
REDUCED: tuple[EngineName, ...] = ("openvino-bf16", "openvino-int8")
"""Those of reduced precision, which may run where the bundle's manifest says so."""


SMALL_BYTES = 4 << 20
"""Of an encoder: it takes less of an answer than decoding and HTTP do."""


def is_small(folder: Path) -> bool:
    """Whether the encoder in a bundle's folder is too small for its engine to matter."""
    files = [folder / name for name in (ENCODER, ENCODER_DATA) if (folder / name).exists()]
    return sum(file.stat().st_size for file in files) < SMALL_BYTES


def why_no_openvino() -> str | None:
    """Why OpenVINO cannot run here; None where it can."""
    if find_spec("openvino") is None:
        return "needs openvino: install secondlook with the extra fast"
    if os.environ.get(OLDER):
        return f"does not run while {OLDER} is set"
    return None


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
