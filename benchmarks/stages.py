"""What an answer is made of: decode, encode, search, vote and mix, at several batch sizes, and the exact sum beside."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.model.answering.doubt import own_evidence
from secondlook.model.answering.early_exit import early_exit_search
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import exact_vote, mix, softmax, vote
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode

BATCHES = (1, 8, 32, 128)


@dataclass(frozen=True)
class StageResult:
    """Milliseconds for an image at one batch size."""

    batch: int
    decode_ms: float
    """Of a PNG of the encoder's size, in one thread."""
    encode_ms: float
    search_ms: float
    """In full, as when neighbours are asked for."""
    vote_ms: float
    """Of all k."""
    cache_ms: float
    """Search, vote and mixture as served: only as far as needed."""
    predict_ms: float
    """Encode, search, vote, mix and everything around them."""
    exact_sum_ms: float
    """The vote of all entries instead of search and vote."""

    @property
    def cache_over_encode(self) -> float:
        """What the cache costs for each unit of the network's cost."""
        return self.cache_ms / self.encode_ms


def stages(bundle: Bundle, images: NDArray[np.uint8], for_seconds: float = 2.0) -> list[StageResult]:
    """Time every stage on images (N,H,W,3), N >= 512, under the bundle's own parameters.

    Each call has other images than the one before, because how far the store is searched depends on the image.
    """
    predictor = Predictor(bundle)
    engine, store = bundle.engine, bundle.store
    theta, lam, k = predictor.defaults
    images = images[: len(images) // 128 * 128][:2048]
    files = [png(image) for image in images[:32]]
    encodings = [engine.encode(images[start : start + 128]) for start in range(0, len(images), 128)]
    keys = np.concatenate([encoding.keys for encoding in encodings])
    logits = np.concatenate([encoding.logits for encoding in encodings])
    network = softmax(logits, len(bundle.manifest.classes))
    classes = network.shape[1]

    nearest = k or store.count
    calibration = bundle.manifest.calibration
    novelty = calibration.novelty if calibration else None

    def served(rows: slice) -> None:
        if k is None:
            exact(rows)
        else:
            own = own_evidence(novelty, logits[rows], network[rows], keys[rows], bundle.directions)
            _, cache = early_exit_search(store, keys[rows], network[rows], theta, lam, k, novelty, own=own)
            mix(network[rows], cache, lam)

    def exact(rows: slice) -> None:
        mix(network[rows], exact_vote(keys[rows], store.chunks(), (theta,), classes)[0][0], lam)

    results = []
    for batch in BATCHES:
        some = store.search(keys[:batch], nearest)

        def mean_ms(work: Callable[[slice], object], batch: int = batch) -> float:
            return _mean_ms(work, batch, len(images), for_seconds)

        results.append(
            StageResult(
                batch,
                _mean_ms(
                    lambda rows: [decode(file, bundle.geometry, Limits(DEFAULT_PIXELS)) for file in files],
                    32,
                    32,
                    for_seconds / 2,
                ),
                mean_ms(lambda rows: engine.encode(images[rows])),
                mean_ms(lambda rows: store.search(keys[rows], nearest)),
                mean_ms(lambda rows, s=some: vote(s.similarities, s.values, theta, classes)),  # type: ignore[misc]
                mean_ms(served),
                mean_ms(lambda rows: predictor.predict(images[rows], [predictor.defaults] * (rows.stop - rows.start))),
                mean_ms(exact),
            )
        )
    return results


def _mean_ms(work: Callable[[slice], object], batch: int, count: int, for_seconds: float) -> float:
    """Milliseconds for an image, over batches from all of count images in turn."""
    work(slice(0, batch))
    done, started = 0, time.perf_counter()
    while True:
        start = done % (count - batch + 1) if batch < count else 0
        work(slice(start, start + batch))
        done += batch
        took = time.perf_counter() - started
        if took > for_seconds:
            return 1000 * took / done


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image (H,W,3) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
