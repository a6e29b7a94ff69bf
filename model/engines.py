"""Engines: what runs an encoder. ONNX Runtime on a processor, PyTorch on a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.cache import Floats
from model.errors import EngineError

if TYPE_CHECKING:
    from model.encoder import Encoder


class Encoding(NamedTuple):
    """What an encoder says of B images."""

    logits: Floats
    """(B,C)."""
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
            # Read here: ONNX Runtime would follow a graph's references to other files.
            graph = path.read_bytes()
            self._alone = _session(graph, threads)
            self._batch = _session(graph, threads - 1) if spare_core and threads > 1 else self._alone
            (images,) = self._alone.get_inputs()
            logits, keys = self._alone.get_outputs()
            _, height, width, _ = images.shape
            self.size, self.classes, self.dim = (int(height), int(width)), int(logits.shape[1]), int(keys.shape[1])
        except Exception as error:
            raise EngineError(f"{path.name} is not an encoder that ONNX Runtime can run") from error
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """One run of the graph."""
        session = self._alone if len(images) == 1 else self._batch
        logits, keys = session.run(["logits", "keys"], {"images": images})
        return Encoding(logits, keys)


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin within a run answer a lone image a fifth sooner; spinning on after it would take the
    # processor from decoding, searching and other programs (docs/decisions/004).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])


class TorchEngine:
    """An encoder in PyTorch, on a GPU (or on a processor, to compare).

    With ``bfloat16`` the network runs in it, and keys are made of its activations in float32.

    Raises:
        EngineError: PyTorch finds no such device.
    """

    def __init__(
        self, encoder: Encoder, size: tuple[int, int], device: str = "cuda", *, bfloat16: bool = False
    ) -> None:
        import torch

        self._torch, self._device, self._bfloat16 = torch, torch.device(device), bfloat16
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError("PyTorch finds no CUDA device here: use the CPU engine")
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # float32 here means float32
        self._encoder = encoder.to(self._device).to(memory_format=torch.channels_last)
        self.size, self.name = size, f"torch {torch.__version__} on {device}{' in bfloat16' if bfloat16 else ''}"
        probe = self.encode(np.zeros((1, *size, 3), np.uint8))
        self.classes, self.dim = probe.logits.shape[1], probe.keys.shape[1]

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """One forward pass."""
        torch, encoder = self._torch, self._encoder
        given = torch.from_numpy(images)
        if self._device.type == "cuda":
            given = given.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode():
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                logits, seen = encoder.network.activations(encoder.network.normalize(given), encoder.recipe.all_layers)
            keys = encoder.keys({name: activation.float() for name, activation in seen.items()})
            return Encoding(logits.float().cpu().numpy(), keys.cpu().numpy())
