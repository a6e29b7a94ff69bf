"""Engines side by side, as a server could run them and as people run them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.evaluation.timing import repeated
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.engine_choice import why_not
from secondlook.model.bundles.engine_race import SIZES
from secondlook.model.bundles.engines import INT8, REDUCED, open_engine, why_no_openvino
from secondlook.model.bundles.files import ENCODER, NETWORK
from secondlook.model.networks.engines import Encoding, Engine, EngineName, OnnxEngine

ROUNDS = 5
"""In each of which all engines take their turn, so that a disturbance of the machine meets them all."""


@dataclass(frozen=True)
class EngineResult:
    """One engine's speed, and how far it says what bare ONNX Runtime says."""

    name: str
    images_per_second: tuple[float, float]
    """At batches of SIZES."""
    times_bare: tuple[float, float]
    """Of bare ONNX Runtime's."""
    least_cosine: float
    """Of an image's two keys."""
    same_top1_percent: float | None
    """Of the network's classes; None where it has none."""
    is_served: bool
    """Whether a server may run it, for all that is known of its answers."""
    why_not: str = ""


class BareOnnxRuntime:
    """ONNX Runtime's own loop over the same graph, nothing of ours around it: what ``OnnxEngine`` is held to.

    Inputs and outputs are bound once for each batch size, as ONNX Runtime's performance test does, and threads spin on
    between runs.
    """

    name = "onnxruntime, bare"

    def __init__(self, path: Path, classes: int, dim: int) -> None:
        self._session = onnxruntime.InferenceSession(path, None, ["CPUExecutionProvider"])
        self._widths = {"logits": classes, "keys": dim}
        self._bound: dict[int, Any] = {}

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """Run the graph into the outputs bound for this batch size."""
        if len(images) not in self._bound:
            binding = self._session.io_binding()
            given = onnxruntime.OrtValue.ortvalue_from_numpy(images.copy())
            binding.bind_ortvalue_input("images", given)
            outputs = {
                name: onnxruntime.OrtValue.ortvalue_from_shape_and_type([len(images), width], np.float32)
                for name, width in self._widths.items()
            }
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
            self._bound[len(images)] = binding, given, outputs
        binding, given, outputs = self._bound[len(images)]
        given.update_inplace(images)
        self._session.run_with_iobinding(binding)
        return Encoding(outputs["logits"].numpy().copy(), outputs["keys"].numpy().copy())


def engines(bundle: Bundle, images: NDArray[np.uint8], for_seconds: float = 2.0) -> list[EngineResult]:
    """Measure bare ONNX Runtime, those that a server can run the bundle's encoder on, and eager PyTorch, on images.

    Images are (N,H,W,3), N >= 16. PyTorch is measured where the bundle has the network's module and it is installed.
    """
    found = list(_engines(bundle))
    answers = [encode_all(engine, images) for engine, _, _ in found]
    taken: list[tuple[list[float], list[float]]] = [([], []) for _ in found]
    for _ in range(ROUNDS):
        for place, size in enumerate(SIZES):
            batch = images[:size]
            for (engine, _, _), times in zip(found, taken, strict=True):
                engine.encode(batch)
                times[place].extend(repeated(lambda e=engine, b=batch: e.encode(b), for_seconds / ROUNDS))  # type: ignore[misc]
    rates = [tuple(size / float(np.median(own)) for size, own in zip(SIZES, times, strict=True)) for times in taken]
    bare = answers[0]
    return [
        EngineResult(
            engine.name,
            (one, many),
            (one / rates[0][0], many / rates[0][1]),
            float((said.keys * bare.keys).sum(axis=1).min()),
            _same_percent(said.logits, bare.logits) if bare.logits.size else None,
            is_served,
            why,
        )
        for (engine, is_served, why), (one, many), said in zip(found, rates, answers, strict=True)
    ]


def encode_all(engine: Engine, images: NDArray[np.uint8]) -> Encoding:
    """What an engine says of images (N,H,W,3), in batches."""
    parts = [engine.encode(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return Encoding(np.concatenate([p.logits for p in parts]), np.concatenate([p.keys for p in parts]))


def _engines(bundle: Bundle) -> Iterator[tuple[Any, bool, str]]:
    """Each with whether a server may run it, and if not, why."""
    path = bundle.path / ENCODER
    yield BareOnnxRuntime(path, bundle.engine.classes, bundle.engine.dim), False, "a session and nothing around it"
    yield OnnxEngine(path), True, ""
    if why_no_openvino() is None:
        from secondlook.model.networks.openvino_engine import has_bfloat16

        able: list[EngineName] = ["openvino-f32"]
        able += [name for name in REDUCED if (has_bfloat16() if name == "openvino-bf16" else _has_int8(bundle))]
        for name in able:
            why = why_not(bundle.manifest, name) if name in REDUCED else None
            yield open_engine(bundle.path, name), why is None, why or ""
    if (bundle.path / NETWORK).exists():
        try:
            import torch

            from secondlook.model.networks.encoder import Encoder
            from secondlook.model.networks.file import load_network
            from secondlook.model.networks.torch_engine import TorchEngine
        except ModuleNotFoundError:
            return
        file = load_network(bundle.path / NETWORK)
        torch.set_grad_enabled(False)
        encoder = Encoder(file.network, bundle.manifest.recipe, file.projection)
        yield TorchEngine(encoder, bundle.engine.size, "cpu"), False, "eager"


def _has_int8(bundle: Bundle) -> bool:
    return (bundle.path / INT8).exists()


def _same_percent(logits: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return 100 * float((logits.argmax(axis=1) == others.argmax(axis=1)).mean())
