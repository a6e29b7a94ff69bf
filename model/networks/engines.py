"""Engines: what runs an encoder. ONNX Runtime on a processor, here; OpenVINO, and PyTorch on a GPU, beside it."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import EngineError
from secondlook.model.networks.encoding import Encoding as Encoding
from secondlook.model.networks.onnx_files import referenced

if TYPE_CHECKING:
    from secondlook.model.images import Geometry

DATA = ".data"
"""Behind the name of a graph's file: that of the file beside it with its weights, where it is not light."""
EngineName = Literal["onnxruntime", "openvino-f32", "openvino-bf16", "openvino-int8"]
"""What runs an encoder on a processor, and in which precision; ONNX Runtime's is float32."""
LIGHT = 32 << 20
"""Bytes of an encoder that takes about as long for an image as HTTP and decoding do (docs/decisions/004)."""


# Builds for Windows send events.
onnxruntime.disable_telemetry_events()


class Engine(Protocol):
    """Runs an encoder; ``encode`` is called from one thread at a time."""

    name: str
    size: tuple[int, int]
    """Height and width of the images it takes."""
    classes: int
    dim: int

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """Images (B,height,width,3) uint8, B >= 1."""
        ...


class ImageEncoder(Protocol):
    """An engine, and how images are brought to it."""

    @property
    def engine(self) -> Engine:
        """Runs it."""

    @property
    def geometry(self) -> Geometry:
        """What images are decoded with for it; its size is the engine's."""


class OnnxEngine:
    """An exported encoder on ONNX Runtime, with so many threads; 0 = all cores. Its weights lie in memory once.

    With ``spare_core``, batches of a light encoder leave one core to whatever feeds the engine; a lone image, with
    nothing beside it, has all of them. A heavy one would hold its weights twice for that, and be slower.

    Raises:
        EngineError: the file is not an encoder's graph, or takes weights from another file than ``DATA`` beside it.
    """

    def __init__(self, path: Path, threads: int = 0, *, spare_core: bool = False) -> None:
        threads = threads or os.cpu_count() or 1
        check_no_other_files(path)
        try:
            # By its path: Python would keep a copy of what it reads, and weights in a file of their own are mapped.
            self._alone = self._batch = _session(path, threads)
            if spare_core and threads > 1 and _is_light(path):
                self._batch = _session(path, threads - 1)
            (images,) = self._alone.get_inputs()
            widths = {output.name: int(output.shape[1]) for output in self._alone.get_outputs()}
            _, height, width, _ = images.shape
            self.size, self.classes, self.dim = (int(height), int(width)), widths.get("logits", 0), widths["keys"]
            self.all_classes = widths.get("all_logits", self.classes)
        except Exception as error:
            raise EngineError(_no_encoder(path)) from error
        give_back_memory()
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """One run of the graph."""
        session = self._alone if len(images) == 1 else self._batch
        if not self.classes:
            (keys,) = session.run(["keys"], {"images": images})
            return Encoding(np.empty((len(images), 0), np.float32), keys)
        logits, keys = session.run(["logits", "keys"], {"images": images})
        return Encoding(logits, keys)

    def all_logits(self, images: NDArray[np.uint8]) -> Floats:
        """(B,C) of all the network's classes, also those that the bundle has not; C is ``all_classes``."""
        name = "all_logits" if self.all_classes > self.classes else "logits"
        return np.asarray(self._batch.run([name], {"images": images})[0])


def check_no_other_files(path: Path) -> None:
    """Refuse a graph that takes weights from another file than the one that belongs to it.

    Raises:
        EngineError: it does, or it is no graph.
    """
    try:
        others = sorted(referenced(path) - {f"{path.name}{DATA}"})
    except (OSError, ValueError) as error:
        raise EngineError(_no_encoder(path)) from error
    if others:
        raise EngineError(f"{path.name} takes weights from another file, {others[0]}: index again")


def _no_encoder(path: Path) -> str:
    return f"{path.name} is not an encoder that ONNX Runtime can run"


def _is_light(path: Path) -> bool:
    return path.stat().st_size < LIGHT and not path.with_name(f"{path.name}{DATA}").exists()


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin within a run answer a lone image a fifth sooner; spinning on after it would take the
    # processor from decoding, searching and other programs (docs/decisions/004).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"], enable_fallback=0)


def give_back_memory() -> None:
    """Return what the C library keeps of freed memory: once and a half of a graph's weights, after it was read."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
