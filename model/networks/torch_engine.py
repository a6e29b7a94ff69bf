"""The engine on a GPU: an encoder in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secondlook.model.errors import EngineError
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.encoding import Encoding


class TorchEngine:
    """An encoder in PyTorch, on a GPU (or on a processor, to compare).

    With ``bfloat16`` the network runs in it, and keys are made of its activations in float32.

    Raises:
        EngineError: PyTorch finds no such device.
    """

    def __init__(
        self, encoder: Encoder, size: tuple[int, int], device: str = "cuda", *, bfloat16: bool = False
    ) -> None:
        self._device, self._bfloat16 = torch.device(device), bfloat16
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
        encoder = self._encoder
        given = torch.from_numpy(images)
        if self._device.type == "cuda":
            given = given.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode():
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                logits, seen = encoder.network.activations(encoder.network.normalize(given), encoder.recipe.all_layers)
            keys = encoder.keys({name: activation.float() for name, activation in seen.items()})
            return Encoding(logits.float().cpu().numpy(), keys.cpu().numpy())
