"""Timing, and what the machine itself can do."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
from pydantic import BaseModel

PROBE_BYTES = 256 << 20
"""Read to measure memory bandwidth: far beyond any processor's cache."""


class Machine(BaseModel):
    """Where and with what a benchmark ran."""

    processor: str
    cores: int
    vector_extensions: list[str]
    memory_gb: float
    system: str
    versions: dict[str, str]
    date: str
    read_gb_per_second: float
    """Memory bandwidth of one thread, reading."""


def machine() -> Machine:
    """Describe this one; takes a second."""
    flags = next((line.split() for line in _processor_info() if line.startswith("flags")), [])
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return Machine(
        processor=processor(),
        cores=os.cpu_count() or 1,
        vector_extensions=[flag for flag in known if flag in flags],
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={
            "faiss": faiss.__version__,
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        date=datetime.now(UTC).date().isoformat(),
        read_gb_per_second=round(_bandwidth() / 1e9, 2),
    )


def processor() -> str:
    """Name the processor."""
    names = [line.partition(":")[2].strip() for line in _processor_info() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _processor_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def repeated(work: Callable[[], object], for_seconds: float, fewest: int = 3) -> list[float]:
    """Time calls made over and over for so long."""
    times: list[float] = []
    until = time.perf_counter() + for_seconds
    while time.perf_counter() < until or len(times) < fewest:
        times.append(seconds(work))
    return times


def median_ms(work: Callable[[], object], for_seconds: float = 1.0) -> float:
    """Return the median milliseconds of a call, after one that does not count."""
    work()
    return 1000 * float(np.median(repeated(work, for_seconds)))


def _bandwidth() -> float:
    """Bytes a second that a sum over an array reads."""
    array = np.ones(PROBE_BYTES // 8)
    return PROBE_BYTES / float(np.median(repeated(array.sum, 1.0)))
