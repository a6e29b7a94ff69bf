"""Engines: whether the device answers as the processor does, and how many images a second it encodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from benchmarks.gpu.running import missing
from benchmarks.gpu.subjects import DEFAULT, Subject, cifar, cifar_images, imagenet, made
from secondlook.evaluation.timing import repeated
from secondlook.model.networks.encoding import Encoding
from secondlook.model.networks.torch_engine import TorchEngine

AT_ONCE = 64
BATCHES = (1, 16, 128)


@dataclass(frozen=True)
class Bounds:
    """How far an engine may be from the same encoder in float32 on the processor."""

    logits: float
    """Largest difference, as a share of the largest logit."""
    cosine: float
    """Of each image's keys in the mean, at least."""
    top1: float
    """Share of images with the same first class, at least."""


BOUNDS = {"float32": Bounds(1e-3, 0.9999, 0.99), "bfloat16": Bounds(0.1, 0.99, 0.95)}
"""Bfloat16 has 8 bits: it is only refused here where it is broken. A bundle takes it by its answers on the holdout."""
BOUNDS_RANDOM = {"float32": BOUNDS["float32"], "bfloat16": Bounds(0.5, 0.9, 0.0)}
"""Of networks with random weights, which make rounding larger from block to block."""


class Encodes(Protocol):
    """What of an engine is asked here."""

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        """Images (B,H,W,3) uint8."""


def cifar_engines(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """The project's own network, and ONNX Runtime on the same graph."""
    subject = cifar()
    images, _, what = cifar_images(plan, "test", 64 if plan.quick else 1024)
    yield Found("what", {"network": subject.name, "images": what})
    reference = encoded(subject.engine("cpu"), images)
    yield from _engines(subject, plan, clock, images, reference)
    if not subject.is_trained:
        yield LeftOut("onnxruntime float32", "the default bundle's network was not read")
        return
    try:
        from secondlook.model.networks.engines import OnnxEngine
    except ModuleNotFoundError as error:
        yield missing(error, "onnxruntime float32")
        return
    onnx = OnnxEngine(DEFAULT / (DEFAULT / "CURRENT").read_text().strip() / "encoder.onnx")
    given = encoded(onnx, images)
    yield _compared("onnxruntime float32", reference, given, BOUNDS["float32"], {})


def resnet50_engines(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """ResNet-50."""
    yield from _imagenet("resnet50", plan, clock)


def efficientnet_engines(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """EfficientNet-B0."""
    yield from _imagenet("efficientnet_b0", plan, clock)


def _imagenet(name: str, plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    subject = imagenet(name, plan)
    images = made(4 if plan.quick else 64, subject.size)
    yield Found("what", {"network": subject.name, "images": "made images"})
    yield from _engines(subject, plan, clock, images, encoded(subject.engine("cpu"), images))


def _engines(
    subject: Subject, plan: Plan, clock: Clock, images: NDArray[np.uint8], reference: Encoding
) -> Iterator[Found | LeftOut]:
    for precision in plan.precisions:
        name = f"{plan.device} {precision}"
        if clock.left < 0:
            yield LeftOut(name, "its time was over")
            continue
        engine = subject.engine(plan.device, precision)
        given = encoded(engine, images)
        rates = {str(batch): images_per_second(engine, images, batch, plan.seconds) for batch in batches(plan)}
        values = {"engine": engine.name, "images_per_second": rates}
        bounds = (BOUNDS if subject.is_trained else BOUNDS_RANDOM)[precision]
        yield _compared(name, reference, given, bounds, values)


def batches(plan: Plan) -> tuple[int, ...]:
    """Sizes that are timed."""
    return BATCHES[:2] if plan.quick else BATCHES


def images_per_second(engine: TorchEngine, images: NDArray[np.uint8], batch: int, seconds: float) -> float:
    """Time batches of images (repeated where there are too few) as a server gives them: from and to main memory."""
    given = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
    engine.encode(given)
    engine.encode(given)
    return batch / float(np.median(repeated(lambda: engine.encode(given), seconds)))


def encoded(engine: Encodes, images: NDArray[np.uint8], at_once: int = AT_ONCE) -> Encoding:
    """All of them, a batch at a time."""
    encodings = [engine.encode(images[start : start + at_once]) for start in range(0, len(images), at_once)]
    return Encoding(*(np.concatenate(parts) for parts in zip(*encodings, strict=True)))


def _compared(name: str, reference: Encoding, given: Encoding, bounds: Bounds, values: dict[str, Any]) -> Found:
    logits = float(np.abs(given.logits - reference.logits).max() / np.abs(reference.logits).max())
    cosines = (given.keys * reference.keys).sum(axis=1)
    top1 = float((given.logits.argmax(1) == reference.logits.argmax(1)).mean())
    amiss = [
        text
        for text, is_amiss in (
            (f"logits differ by {logits:.2g} of the largest", not logits <= bounds.logits),
            (f"keys' mean cosine is {cosines.mean():.5f}", not cosines.mean() >= bounds.cosine),
            (f"the first class is the same for {100 * top1:.1f} %", not top1 >= bounds.top1),
        )
        if is_amiss
    ]
    measured = {
        "images": len(given.keys),
        "logits_difference": logits,
        "keys_cosine_mean": float(cosines.mean()),
        "keys_cosine_least": float(cosines.min()),
        "same_top1_percent": 100 * top1,
    }
    return Found(name, measured | values, not amiss, "; ".join(amiss))
