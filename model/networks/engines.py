"""Engines: what runs an encoder. ONNX Runtime on a processor, here; PyTorch on a GPU, in ``torch_engine``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import EngineError
from secondlook.model.images import Geometry


class Encoding(NamedTuple):
    """What an encoder says of B images."""

    logits: Floats
    """(B,C); C is 0 where the network has no head."""
    keys: Floats
    """(B,D), unit length."""


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
    """An exported encoder on ONNX Runtime, with so many threads; 0 = all cores.

    With ``spare_core``, batches leave one core to whatever feeds the engine; a lone image, with nothing beside it, has
    all of them.

    Raises:
        EngineError: the file is not an encoder's graph.
    """

    def __init__(self, path: Path, threads: int = 0, *, spare_core: bool = False) -> None:
        threads = threads or os.cpu_count() or 1
        try:
            # Read here: ONNX Runtime would follow a graph's references to other files. Weights over 2 GiB lie in one.
            graph = str(path) if path.with_name(f"{path.name}.data").is_file() else path.read_bytes()
            self._alone = _session(graph, threads)
            self._batch = _session(graph, threads - 1) if spare_core and threads > 1 else self._alone
            (images,) = self._alone.get_inputs()
            widths = {output.name: int(output.shape[1]) for output in self._alone.get_outputs()}
            _, height, width, _ = images.shape
            self.size, self.classes, self.dim = (int(height), int(width)), widths.get("logits", 0), widths["keys"]
        except Exception as error:
            raise EngineError(f"{path.name} is not an encoder that ONNX Runtime can run") from error
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """One run of the graph."""
        session = self._alone if len(images) == 1 else self._batch
        if not self.classes:
            (keys,) = session.run(["keys"], {"images": images})
            return Encoding(np.empty((len(images), 0), np.float32), keys)
        logits, keys = session.run(["logits", "keys"], {"images": images})
        return Encoding(logits, keys)


def _session(graph: bytes | str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin within a run answer a lone image a fifth sooner; spinning on after it would take the
    # processor from decoding, searching and other programs (docs/decisions/004).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
