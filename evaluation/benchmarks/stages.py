"""What an answer is made of: decode, encode, search, vote and mix, at several batch sizes, and the exact sum beside."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.benchmarks.timing import median_ms
from model.bundle import Bundle
from model.cache import exact_vote, mix, softmax, vote
from model.images import decode
from model.predictor import Predictor

BATCHES = (1, 8, 32, 128)


@dataclass(frozen=True)
class StageResult:
    """Milliseconds for an image at one batch size."""

    batch: int
    decode_ms: float
    """Of a PNG of the encoder's size, in one thread."""
    encode_ms: float
    search_ms: float
    vote_ms: float
    """Vote and mixture."""
    predict_ms: float
    """Encode, search, vote, mix and everything around them."""
    exact_sum_ms: float
    """The vote of all entries instead of search and vote."""

    @property
    def cache_over_encode(self) -> float:
        """What the cache costs for each unit of the network's cost."""
        return (self.search_ms + self.vote_ms) / self.encode_ms


def stages(bundle: Bundle, images: NDArray[np.uint8], for_seconds: float = 2.0) -> list[StageResult]:
    """Time every stage on images (N,H,W,3), N >= 128, under the bundle's own parameters."""
    predictor = Predictor(bundle)
    theta, lam, k = predictor.defaults
    files = [_png(image) for image in images[:32]]
    results = []
    for batch in BATCHES:
        part = images[:batch]
        encoding = bundle.engine.encode(part)
        network = softmax(encoding.logits)
        nearest = k or bundle.store.count
        found = bundle.store.search(encoding.keys, nearest)
        classes = network.shape[1]

        def search(keys: NDArray[np.float32] = encoding.keys, nearest: int = nearest) -> object:
            return bundle.store.search(keys, nearest)

        def mixture(logits: NDArray[np.float32] = encoding.logits) -> object:
            return mix(softmax(logits), vote(found.similarities, found.values, theta, classes), lam)  # noqa: B023

        def exact(keys: NDArray[np.float32] = encoding.keys) -> object:
            return exact_vote(keys, bundle.store.chunks(), (theta,), classes)  # noqa: B023

        results.append(
            StageResult(
                batch,
                median_ms(lambda: [decode(file, bundle.engine.size) for file in files], for_seconds / 2) / len(files),
                median_ms(lambda p=part: bundle.engine.encode(p), for_seconds) / batch,  # type: ignore[misc]
                median_ms(search, for_seconds) / batch,
                median_ms(mixture, for_seconds / 2) / batch,
                median_ms(
                    lambda p=part: predictor.predict(p, [predictor.defaults] * len(p)),  # type: ignore[misc]
                    for_seconds,
                )
                / batch,
                median_ms(exact, for_seconds) / batch,
            )
        )
    return results


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
