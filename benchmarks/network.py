"""An encoder as it is served, beside ONNX Runtime as its documentation shows it: start, memory and speed.

Each is measured in processes of its own, which take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.evaluation.timing import median_ms
from secondlook.indexer.progress import Progress
from secondlook.model.errors import EngineError, NetworkError
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.engines import DATA, OnnxEngine
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.sources import open_network

ROUNDS = 3
BATCH = 16
"""What a server gives it at most."""


@dataclass(frozen=True)
class NetworkResult:
    """One way to run an encoder; times are medians of several processes."""

    name: str
    weight_mb: float
    """Of its files, in 10⁶ bytes."""
    start_seconds: float
    memory_mb: float | None
    """Of the process's own (no pages of files) when it has run one image, beyond what it had before; Linux says it."""
    batches_mb: float | None
    """What batches take beyond that."""
    milliseconds_one: float
    images_per_second: float
    """Of batches."""

    @property
    def memory_over_weights(self) -> float | None:
        """1 where weights lie in memory once, and nothing else does."""
        return None if self.memory_mb is None else self.memory_mb / self.weight_mb

    def as_dict(self) -> dict[str, Any]:
        """For JSON, the ratio included."""
        return {**asdict(self), "memory_over_weights": self.memory_over_weights}


class _Plain:
    """The file's bytes in a session, and in another with a core less for batches, if one is to be spared."""

    def __init__(self, path: Path, *, spare_core: bool) -> None:
        cores = os.cpu_count() or 1
        graph: bytes | str = str(path) if path.with_name(f"{path.name}{DATA}").exists() else path.read_bytes()
        self._sessions = [self._session(graph, threads) for threads in (cores, cores - 1)[: 1 + spare_core] if threads]
        _, height, width, _ = self._sessions[0].get_inputs()[0].shape
        self.size = (int(height), int(width))

    @staticmethod
    def _session(graph: bytes | str, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    def encode(self, images: NDArray[np.uint8]) -> list[Any]:
        """Whatever the graph gives."""
        return list(self._sessions[0 if len(images) == 1 else -1].run(None, {"images": images}))


WAYS: dict[str, Callable[[Path], Any]] = {
    "as served": lambda path: OnnxEngine(path, spare_core=True),
    "without a spare core": OnnxEngine,
    "ONNX Runtime": lambda path: _Plain(path, spare_core=False),
    "ONNX Runtime, a core spared": lambda path: _Plain(path, spare_core=True),
}


def network(
    name: str | None, encoder: Path, folder: Path, for_seconds: float, progress: Progress
) -> list[NetworkResult]:
    """Measure the encoder of a bundle, or one that is made of the network called ``name`` in a folder.

    Raises:
        NetworkError: there is no such network, or none with an ONNX graph.
        EngineError: it does not run.
    """
    if name is not None:
        found = open_network(name)
        if not isinstance(found, OnnxNetwork):
            raise NetworkError(f"{name} has no ONNX graph to be measured: index with it, and leave --network out")
        export_encoder(found, default_recipe(found), encoder := folder / "encoder.onnx", found.probe(5))
        del found
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for done in range(ROUNDS):
        for way, results in measured.items():
            results.append(in_its_own_process(way, encoder, for_seconds / ROUNDS))
        progress("network", done + 1, ROUNDS)
    return [_median(way, encoder, results) for way, results in measured.items()]


def in_its_own_process(way: str, encoder: Path, for_seconds: float) -> dict[str, Any]:
    """What one of WAYS to run an encoder's file takes, as NetworkResult has it.

    Raises:
        EngineError: it does not run.
    """
    command = [sys.executable, "-m", "benchmarks.network", way, str(encoder), str(for_seconds)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise EngineError(f"{encoder.name} does not run {way}: {ended.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def _median(way: str, encoder: Path, results: list[dict[str, Any]]) -> NetworkResult:
    files = (encoder, encoder.with_name(f"{encoder.name}{DATA}"))
    weights = sum(path.stat().st_size for path in files if path.exists()) / 1e6
    figures = {
        name: None if value is None else float(np.median([result[name] for result in results]))
        for name, value in results[0].items()
    }
    return NetworkResult(way, weights, **figures)  # type: ignore[arg-type]


def _measured(way: str, encoder: Path, for_seconds: float) -> dict[str, float | None]:
    """Of this process."""
    before, started = _own_bytes(), time.perf_counter()
    engine = WAYS[way](encoder)
    start = time.perf_counter() - started
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *engine.size, 3), dtype=np.uint8)
    engine.encode(images[:1])
    one = _own_bytes()
    engine.encode(images)
    after = _own_bytes()
    return {
        "start_seconds": start,
        "memory_mb": None if one is None or before is None else (one - before - images.nbytes) / 1e6,
        "batches_mb": None if after is None or one is None else (after - one) / 1e6,
        "milliseconds_one": median_ms(lambda: engine.encode(images[:1]), for_seconds / 2),
        "images_per_second": 1000 * BATCH / median_ms(lambda: engine.encode(images), for_seconds / 2),
    }


def _own_bytes() -> int | None:
    """Memory of this process that is no file's; None where the system does not say."""
    path = Path("/proc/self/smaps_rollup")
    if not path.exists():
        return None
    return next(1024 * int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("Anonymous:"))


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))))
