"""Which engine runs a bundle's encoder on a processor."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from secondlook.model.bundles.files import ENCODER
from secondlook.model.errors import EngineError
from secondlook.model.networks.engines import Engine, OnnxEngine

EngineName = Literal["onnxruntime", "openvino-f32"]
"""An engine and its precision. ONNX Runtime's is float32."""
DEFAULT: EngineName = "onnxruntime"


@dataclass(frozen=True)
class OpenEngine:
    """An engine that runs a bundle's encoder, and why this one."""

    engine: Engine
    why: str


def check_installed(name: EngineName) -> None:
    """Refuse an engine whose package is not there.

    Raises:
        EngineError: names what to install.
    """
    if name != "onnxruntime" and find_spec("openvino") is None:
        raise EngineError(f"the engine {name} needs openvino: install secondlook with the extra fast")


def open_engine(folder: Path, name: EngineName, threads: int, *, spare_core: bool) -> OpenEngine:
    """Open the encoder in a bundle's folder on an engine, with so many threads (0 = all cores).

    Raises:
        EngineError: it does not run there.
    """
    why = "the default" if name == DEFAULT else "as set"
    if name == "onnxruntime":
        return OpenEngine(OnnxEngine(folder / ENCODER, threads, spare_core=spare_core), why)
    from secondlook.model.networks.openvino_engine import OpenVinoEngine

    return OpenEngine(OpenVinoEngine(folder / ENCODER, threads), why)
