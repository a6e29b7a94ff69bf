"""Answers under load: the server on the device where it can run here, and its arithmetic in one process in any case."""

from __future__ import annotations

import importlib.util
import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.engines import encoded
from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from benchmarks.gpu.running import missing
from benchmarks.gpu.subjects import DEFAULT, cifar, cifar_images
from secondlook.model.cache import Floats, mix, softmax, vote
from secondlook.model.networks.torch_engine import TorchEngine
from secondlook.model.stores.store import ExactStore
from secondlook.model.stores.torch_store import TorchStore

CONNECTIONS, QUICK_CONNECTIONS = (1, 8, 32, 128), (1, 8)
MAX_BATCH = 64
ENTRIES = 100_000
THETA, LAM, K = 60.0, 0.6, 200
SECONDS, QUICK_SECONDS = 3.0, 0.3
CHECKED = 64
WITHIN = 0.02
"""How far an answer's probabilities may be from those without a queue: batches round otherwise."""
SERVER_SECONDS = 20.0
"""That must be left for a server to be started."""


class Asked(NamedTuple):
    """An image that waits, and where its probabilities go."""

    image: NDArray[np.uint8]
    answer: Future[Floats]


class Answering:
    """Encode, search, vote and mix: one thread owns the device, and takes as many images at once as wait."""

    def __init__(self, engine: TorchEngine, store: TorchStore) -> None:
        self._engine, self._store = engine, store
        self._waiting: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer_on, daemon=True)
        self._thread.start()

    def ask(self, image: NDArray[np.uint8]) -> Floats:
        """Probabilities (C,) of an image, after its turn."""
        asked = Asked(image, Future())
        self._waiting.put(asked)
        return asked.answer.result()

    def close(self) -> None:
        """Answer what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def answers(self, images: NDArray[np.uint8]) -> Floats:
        """Probabilities (B,C)."""
        logits, keys = self._engine.encode(images)
        hits = self._store.search(keys, min(K, self._store.count))
        return mix(softmax(logits), vote(hits.similarities, hits.values, THETA, logits.shape[1]), LAM)

    def _answer_on(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                if (more := self._waiting.get()) is None:
                    is_last = True
                    break
                batch.append(more)
            try:
                answers = self.answers(np.stack([asked.image for asked in batch]))
            except Exception as error:
                for asked in batch:
                    asked.answer.set_exception(error)
            else:
                for asked, answer in zip(batch, answers, strict=True):
                    asked.answer.set_result(answer)
            if is_last:
                return


def serving(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """In one process by precision, then over HTTP."""
    images, _, _ = cifar_images(plan, "test", 256)
    for precision in plan.precisions[::-1]:
        yield _in_process(precision, images, plan)
    yield from _over_http(images, plan, clock)


def _in_process(precision: str, images: NDArray[np.uint8], plan: Plan) -> Found:
    subject = cifar()
    engine = subject.engine(plan.device, precision)
    cached, _, _ = cifar_images(plan, "train", 512)
    found = encoded(engine, cached)
    # As many entries as the default bundle has: what costs time is their number, not what they show.
    count = 2048 if plan.quick else ENTRIES
    keys = np.resize(found.keys, (count, engine.dim))
    store = TorchStore(ExactStore(keys, np.arange(count) % engine.classes), plan.device)
    answering = Answering(engine, store)
    expected = np.concatenate([answering.answers(images[i : i + 1]) for i in range(CHECKED)])
    with ThreadPoolExecutor(CHECKED) as askers:
        given = np.stack(list(askers.map(answering.ask, images[:CHECKED])))
    difference = float(np.abs(given - expected).max())
    loads = {
        str(connections): _load(answering, images, connections, QUICK_SECONDS if plan.quick else SECONDS)
        for connections in (QUICK_CONNECTIONS if plan.quick else CONNECTIONS)
    }
    answering.close()
    agrees = difference <= WITHIN
    why = "" if agrees else f"probabilities differ by {difference:.2g} from those of images alone"
    values = {"entries": count, "max_batch": MAX_BATCH, "probabilities_within": difference, "connections": loads}
    return Found(f"in process, {plan.device} {precision}", values, agrees, why)


def _load(answering: Answering, images: NDArray[np.uint8], askers: int, seconds: float) -> dict[str, float]:
    """So many threads that each ask again as soon as they are answered."""
    until = time.perf_counter() + seconds

    def ask_on(number: int) -> list[float]:
        waits: list[float] = []
        while (started := time.perf_counter()) < until or not waits:
            answering.ask(images[(number + len(waits) * askers) % len(images)])
            waits.append(time.perf_counter() - started)
        return waits

    started = time.perf_counter()
    with ThreadPoolExecutor(askers) as pool:
        waits = np.concatenate(list(pool.map(ask_on, range(askers))))
    took = time.perf_counter() - started
    return {
        "images_per_second": len(waits) / took,
        "p50_ms": 1000 * float(np.median(waits)),
        "p99_ms": 1000 * float(np.percentile(waits, 99)),
    }


def _over_http(images: NDArray[np.uint8], plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """The default bundle's server: its settings say the device."""
    name = f"server, {plan.device}"
    for module in ("fastapi", "uvicorn", "faiss", "pi_heif", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            yield LeftOut(name, f"{module} is not installed")
            return
    if clock.left < SERVER_SECONDS:
        yield LeftOut(name, "its time was over")
        return
    try:
        from benchmarks.load import closed_loop, run
        from benchmarks.serve import Candidate, Direct, running
        from benchmarks.stages import png
        from secondlook.model.answering.predictor import Predictor
        from secondlook.model.bundles.bundle import open_bundle
    except ModuleNotFoundError as error:
        yield missing(error, name)
        return
    settings = (f"SECONDLOOK_DEVICE={plan.device}", f"SECONDLOOK_MAX_BATCH={MAX_BATCH}")
    command = ("env", *settings, sys.executable, "-m", "secondlook", "serve", "--bundles", str(DEFAULT))
    files = [png(image) for image in images[:64]]
    direct = Direct(Predictor(open_bundle(DEFAULT)), files, 16)
    seconds = QUICK_SECONDS if plan.quick else SECONDS
    loads = {}
    # It is held to the same bundle on the processor before it is measured.
    with running(Candidate("secondlook", " ".join(settings), command), direct) as server:
        for connections in QUICK_CONNECTIONS if plan.quick else CONNECTIONS:
            loaded = run(closed_loop, server.url, files, connections, 0.25 * seconds, seconds)
            if loaded.failures:
                yield Found(name, {"failures": loaded.failures}, False, f"{loaded.failures} requests failed")
                return
            loads[str(connections)] = {
                "images_per_second": len(loaded.waits) / loaded.seconds,
                "p50_ms": 1000 * float(np.median(loaded.waits)),
                "p99_ms": 1000 * float(np.percentile(loaded.waits, 99)),
                "sender_cores": loaded.sender_cores,
            }
    yield Found(name, {"settings": " ".join(settings), "connections": loads}, True)
