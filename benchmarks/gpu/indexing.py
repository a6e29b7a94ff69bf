"""An index on the device: CIFAR-10 embedded and put into its store, and what the cache then answers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.engines import encoded
from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from benchmarks.gpu.running import missing
from benchmarks.gpu.subjects import DEFAULT, Subject, cifar, cifar_images
from secondlook.model.cache import Ints, mix, softmax, vote
from secondlook.model.networks.encoding import Encoding
from secondlook.model.stores.store import ExactStore
from secondlook.model.stores.torch_store import TorchStore

IMAGES, ASKED = 50_000, 10_000
AT_ONCE = 1024
THETA, LAM, K = 60.0, 0.6, 200
"""Of the default bundle."""
FEWEST_LEFT = 5.0


def indexing(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """Embedding and store by precision, errors where there are labels, and the whole ``index`` where it can run."""
    subject = cifar()
    images, labels, what = cifar_images(plan, "train", 256 if plan.quick else IMAGES)
    asked, truth, _ = cifar_images(plan, "test", 64 if plan.quick else ASKED)
    yield Found("what", {"network": subject.name, "images": what, "count": len(images)})
    answers: dict[str, Ints] = {}
    for precision in plan.precisions:
        engine = subject.engine(plan.device, precision)
        encoded(engine, images[:AT_ONCE], AT_ONCE)
        started = time.perf_counter()
        encoding = encoded(engine, images, AT_ONCE)
        embedded = time.perf_counter()
        # Without labels each image is of the class that the network says: votes are compared, not errors.
        values = encoding.logits.argmax(axis=1) if labels is None else labels
        store = TorchStore(ExactStore(encoding.keys, values), plan.device)
        ready = time.perf_counter()
        found = {
            "images_per_second": len(images) / (ready - started),
            "embedded_per_second": len(images) / (embedded - started),
            "store_seconds": ready - embedded,
        }
        queries = encoded(engine, asked, AT_ONCE)
        network, mixed = _answers(store, queries)
        if truth is not None:
            found["network_error_percent"] = 100 * float((network != truth).mean())
            found["mixed_error_percent"] = 100 * float((mixed != truth).mean())
        answers[precision] = mixed
        yield Found(f"{plan.device} {precision}", found)
    yield _same_answers(answers["float32"], answers["bfloat16"], truth)
    yield _whole(subject, plan, clock, images)


def _answers(store: TorchStore, queries: Encoding) -> tuple[Ints, Ints]:
    """The network's and the mixture's first class of each query."""
    classes = queries.logits.shape[1]
    mixed: list[Ints] = []
    for start in range(0, len(queries.keys), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        hits = store.search(queries.keys[rows], min(K, store.count))
        cache = vote(hits.similarities, hits.values, THETA, classes)
        mixed.append(mix(softmax(queries.logits[rows]), cache, LAM).argmax(axis=1))
    return queries.logits.argmax(axis=1), np.concatenate(mixed)


def _same_answers(exact: Ints, reduced: Ints, truth: Ints | None) -> Found:
    """Bfloat16 against float32, both for cache and queries: no more errors than by chance, where labels are known."""
    changed = 100 * float((exact != reduced).mean())
    if truth is None:
        return Found("bfloat16 beside float32", {"changed_answers_percent": changed})
    worse, better = (int(((a == truth) & (b != truth)).sum()) for a, b in ((exact, reduced), (reduced, exact)))
    agrees = worse - better <= 2 * float(np.sqrt(worse + better))
    why = "" if agrees else f"bfloat16 errs on {worse} images where float32 does not, float32 on {better}"
    values = {"changed_answers_percent": changed, "only_bfloat16_errs": worse, "only_float32_errs": better}
    return Found("bfloat16 beside float32", values, agrees, why)


def _whole(subject: Subject, plan: Plan, clock: Clock, images: NDArray[np.uint8]) -> Found | LeftOut:
    """``secondlook index``, from images to an activated bundle."""
    name = "secondlook index"
    if not subject.is_trained:
        return LeftOut(name, "the default bundle's network was not read")
    if clock.left < FEWEST_LEFT:
        return LeftOut(name, "its time was over")
    try:
        from secondlook.indexer.datasets.datasets import ArrayDataset
        from secondlook.indexer.embedding.encoders import FromBundle
        from secondlook.indexer.index import IndexOptions, index
        from secondlook.model.answering.served_cache import Parameters
        from secondlook.model.bundles.files import read_manifest
    except ModuleNotFoundError as error:
        return missing(error, name)
    source = FromBundle(DEFAULT)
    classes = read_manifest(DEFAULT, (DEFAULT / "CURRENT").read_text().strip()).classes
    some = images[: 128 if plan.quick else len(images)]
    labels = np.arange(len(some)) % len(classes)
    dataset = ArrayDataset("cifar10", "train", classes, labels, some, [f"{i}.png" for i in range(len(some))])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        generation = index(dataset, Path(folder), source, IndexOptions(parameters=Parameters(THETA, LAM, 50)))
        took = time.perf_counter() - started
    return Found(name, {"images": len(some), "images_per_second": len(some) / took, "generation": str(generation)})
