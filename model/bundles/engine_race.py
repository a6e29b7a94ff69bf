"""Which engine runs a bundle's encoder fastest on this machine: measured once, and kept for later servers.

::

    ~/.cache/secondlook/engines/        or below XDG_CACHE_HOME, or where the system keeps users' caches
        <SHA-256 of what the speeds depend on>.json

All of it may be removed at any time. Where nothing can be written, it is measured in each process anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from secondlook.model.bundles.engines import REDUCED, open_engine
from secondlook.model.bundles.files import encoder_id, features_of
from secondlook.model.bundles.locks import root_lock
from secondlook.model.manifest import Manifest
from secondlook.model.networks.engines import Engine, EngineName

logger = logging.getLogger(__name__)

SIZES = (1, 16)
"""Images of a batch: one that comes alone, and what a server computes at once under load."""
SECONDS, FEWEST = 0.3, 2
"""Spent on each size and engine, and the runs that are made however long they take."""
MARGIN = 1.05
"""How much faster than another one an engine must be, in the mean over the sizes, to be taken in its place."""
FLOAT32_TOLERANCE = 1e-3
"""Engines of float32 differ by less, of the largest logit or of a key's length."""


class Measured(BaseModel):
    """How fast engines run an encoder on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fastest: EngineName
    rates: dict[EngineName, tuple[float, float]]
    """For each engine, how many times as fast as the first one it is at SIZES."""

    @property
    def said(self) -> str:
        """In a few words."""
        first, *others = self.rates
        if self.fastest == first:
            told = ", ".join(f"{name} {_times(self.rates[name])}" for name in others)
            return f"measured here: no other is clearly faster (times its speed: {told})"
        return f"measured here: {_times(self.rates[self.fastest])} times the speed of {first}"


def fastest_of(
    names: Sequence[EngineName], folder: Path, manifest: Manifest, threads: int, *, spare_core: bool
) -> Measured:
    """Which of some engines is fastest with the encoder in a bundle's folder: as measured before, or now.

    Raises:
        EngineError: the first one does not run.
    """
    key = _key(manifest, names, threads, spare_core=spare_core)
    if (known := _kept(key, names)) is not None:
        return known
    with _alone():
        if (known := _kept(key, names)) is None:
            known = race(names, folder, threads, spare_core=spare_core)
            _keep(key, known)
    return known


def race(names: Sequence[EngineName], folder: Path, threads: int, *, spare_core: bool) -> Measured:
    """Measure some engines with the encoder in a bundle's folder, two at a time: the fastest so far and the next.

    So two of them are in memory at most. One that does not run, or gives other answers in float32, is left out.

    Raises:
        EngineError: the first one does not run.
    """
    fastest, best = names[0], open_engine(folder, names[0], threads, spare_core=spare_core)
    images = np.random.default_rng(0).integers(0, 256, (max(SIZES), *best.size, 3), dtype=np.uint8)
    expected = best.encode(images)
    rates: dict[EngineName, tuple[float, float]] = {fastest: (1.0, 1.0)}
    for name in names[1:]:
        try:
            other = open_engine(folder, name, threads, spare_core=spare_core)
            said = other.encode(images)
        except Exception as error:  # whatever a runtime raises: the first one runs
            logger.warning("%s is left out: %s", name, error)
            continue
        if name not in REDUCED and not all(
            np.abs(one - wanted).max(initial=0.0) <= FLOAT32_TOLERANCE * max(1.0, np.abs(wanted).max(initial=0.0))
            for one, wanted in zip(said, expected, strict=True)
        ):
            logger.warning("%s is left out: it does not answer as %s does", name, names[0])
            continue
        alone, together = (_times_as_fast(other, best, images[:size]) for size in SIZES)
        rates[name] = (round(rates[fastest][0] * alone, 2), round(rates[fastest][1] * together, 2))
        if alone * together > MARGIN**2:
            fastest, best = name, other
    return Measured(fastest=fastest, rates=rates)


def _times_as_fast(one: Engine, other: Engine, images: NDArray[np.uint8]) -> float:
    """How many times as fast as another engine one is; they take turns, so that a disturbance meets both."""
    seconds: tuple[list[float], list[float]] = [], []
    for engine in (one, other):  # makes ready what later runs of this size use
        engine.encode(images)
    while len(seconds[0]) < FEWEST or sum(map(sum, seconds)) < 2 * SECONDS:
        for engine, taken in zip((one, other), seconds, strict=True):
            started = time.perf_counter()
            engine.encode(images)
            taken.append(time.perf_counter() - started)
    ours, theirs = map(np.median, seconds)
    return float(theirs / ours)


def _processor() -> str:
    """Which processor this is, and what it can."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU part")))
    return f"{platform.machine()} {platform.processor()}"


def _key(manifest: Manifest, names: Sequence[EngineName], threads: int, *, spare_core: bool) -> str:
    """What the speeds depend on; a head, which is a small matrix, does not matter."""
    described = [
        _processor(),
        [os.cpu_count(), threads, spare_core],
        [version("onnxruntime"), version("openvino")],
        features_of(manifest) or encoder_id(manifest),
        list(names),
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _folder() -> Path:
    return platformdirs.user_cache_path("secondlook", appauthor=False) / "engines"


def _kept(key: str, names: Sequence[EngineName]) -> Measured | None:
    with suppress(OSError, RuntimeError, ValidationError):
        found = Measured.model_validate_json((_folder() / f"{key}.json").read_bytes())
        if found.fastest in found.rates and set(found.rates) <= set(names):
            return found
    return None


def _keep(key: str, measured: Measured) -> None:
    """For later servers too, where the user's cache can be written to."""
    with suppress(OSError, RuntimeError):
        part = _folder() / f"{key}.{os.getpid()}.part"
        try:
            part.write_text(measured.model_dump_json())
            part.replace(_folder() / f"{key}.json")
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _alone() -> Iterator[None]:
    """While no other process of this user measures: each would slow down the other."""
    with ExitStack() as held:
        with suppress(OSError, RuntimeError):
            _folder().mkdir(parents=True, exist_ok=True)
            held.enter_context(root_lock(_folder()))
        yield


def _times(rates: tuple[float, float]) -> str:
    return f"{rates[0]:g} alone and {rates[1]:g} in batches"
