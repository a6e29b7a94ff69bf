"""Where a benchmark ran, and what that machine itself can do."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
from pydantic import BaseModel

from secondlook.evaluation.timing import repeated

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


def _bandwidth() -> float:
    """Bytes a second that a sum over an array reads."""
    array = np.ones(PROBE_BYTES // 8)
    return PROBE_BYTES / float(np.median(repeated(array.sum, 1.0)))
