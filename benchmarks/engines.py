"""Engines side by side, and the index build against the encoder alone."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.evaluation.timing import repeated, seconds
from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.files import ENCODER, NETWORK
from secondlook.model.networks.engines import Encoding, Engine, OnnxEngine


@dataclass(frozen=True)
class EngineResult:
    """One engine's speed and its agreement with eager PyTorch."""

    name: str
    milliseconds_one: float
    """Median time of a single image."""
    images_per_second_32: float
    """At batch 32."""
    max_logit_difference: float
    same_top1_percent: float


@dataclass(frozen=True)
class IndexResult:
    """Speed of a whole index build beside the encoder's own."""

    images: int
    encoder_images_per_second: float
    index_images_per_second: float
    embed_images_per_second: float
    """Of the build's embedding alone: decoding, encoding and thumbnails, without store, measuring and writing."""

    @property
    def ratio(self) -> float:
        """Index over encoder."""
        return self.index_images_per_second / self.encoder_images_per_second


class OpenVinoEngine:
    """The exported encoder on OpenVINO: not used for serving, measured beside what is."""

    def __init__(self, path: Path) -> None:
        import openvino

        core = openvino.Core()
        self._model = core.compile_model(
            core.read_model(path), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        )
        self.name = f"openvino {openvino.__version__.partition('-')[0]}"

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """Run the graph."""
        result: Any = self._model(images)
        return Encoding(result[0].copy(), result[1].copy())


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
    """Measure eager PyTorch, the engine in use, bare ONNX Runtime, and OpenVINO if installed, on images (N,H,W,3).

    The engines take turns within each round, so that a disturbance of the machine meets them all.
    """
    import torch

    from secondlook.model.networks.encoder import Encoder
    from secondlook.model.networks.file import load_network
    from secondlook.model.networks.torch_engine import TorchEngine

    file = load_network(bundle.path / NETWORK)
    encoder = Encoder(file.network, bundle.manifest.recipe, file.projection)
    torch.set_grad_enabled(False)
    path = bundle.path / ENCODER
    ours = OnnxEngine(path)
    found: list[Any] = [
        TorchEngine(encoder, bundle.engine.size, "cpu"),
        ours,
        BareOnnxRuntime(path, ours.classes, ours.dim),
    ]
    with suppress(ModuleNotFoundError):
        found.append(OpenVinoEngine(path))
    answers = [_encode_all(engine, images) for engine in found]
    one: list[list[float]] = [[] for _ in found]
    many: list[list[float]] = [[] for _ in found]
    batch = images[:32]
    for _ in range(5):
        for times, size in ((one, 1), (many, 32)):
            for i, engine in enumerate(found):
                engine.encode(batch[:size])
                times[i] += repeated(lambda e=engine, s=size: e.encode(batch[:s]), for_seconds / 5)  # type: ignore[misc]
    reference = answers[0]
    return [
        EngineResult(
            engine.name,
            1000 * float(np.median(one[i])),
            32 / float(np.median(many[i])),
            float(np.abs(answers[i].logits - reference.logits).max()),
            100 * float((answers[i].logits.argmax(1) == reference.logits.argmax(1)).mean()),
        )
        for i, engine in enumerate(found)
    ]


def index_build(bundle: Bundle, root: Path, dataset: Dataset, progress: Progress = silent) -> IndexResult:
    """Measure images a second of a whole ``index`` (decode, embed, store, write, verify) and of its encoder alone."""
    images = np.stack([dataset.read(i, bundle.geometry) for i in range(min(len(dataset.labels), 5000))])
    options = IndexOptions(parameters=Parameters(50.0, 0.5, 50))
    source = FromBundle(root, bundle.manifest.generation)
    with tempfile.TemporaryDirectory() as folder:
        engine = source.prepare(dataset, Path(folder), progress).engine
    rates = [len(images) / seconds(lambda: _encode_all(engine, images)) for _ in range(2)]
    embedding: list[float] = []

    def watched(stage: str, done: int, total: int) -> None:
        if stage == "embed":
            embedding.append(time.perf_counter())
        progress(stage, done, total)

    with tempfile.TemporaryDirectory() as folder:
        took = seconds(lambda: index(dataset, Path(folder), source, options, watched))
    rates.append(len(images) / seconds(lambda: _encode_all(engine, images)))
    # The first report comes after the first batch.
    embedded = (len(dataset.labels) - BATCH) / (embedding[-1] - embedding[0])
    return IndexResult(len(dataset.labels), float(np.median(rates)), len(dataset.labels) / took, embedded)


def first(dataset: ArrayDataset, count: int) -> ArrayDataset:
    """Take the first images of a dataset."""
    return ArrayDataset(
        dataset.name, dataset.split, dataset.classes, dataset.labels[:count], dataset.images[:count], dataset.sources
    )


def _encode_all(engine: Engine, images: NDArray[np.uint8]) -> Encoding:
    parts = [engine.encode(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return Encoding(np.concatenate([p.logits for p in parts]), np.concatenate([p.keys for p in parts]))
