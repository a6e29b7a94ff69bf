"""The machine: its device, what that can do at best, and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from secondlook.evaluation.timing import repeated
from secondlook.model.errors import EngineError

OPTIONAL = {
    "torchvision": "torchvision",
    "triton": "triton",
    "safetensors": "safetensors",
    "h5py": "h5py",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "PIL": "pillow",
    "pi_heif": "pi-heif",
    "faiss": "faiss",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
    "secondlook": "secondlook",
}
"""Modules that let more be measured, and the packages that bring them."""
SIDE, QUICK_SIDE = 8192, 256
COPIED, QUICK_COPIED = 1 << 30, 1 << 20


def machine(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """Describe it, and measure its floors: copies and a matrix product.

    Raises:
        EngineError: it has no such device.
    """
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    described: dict[str, object] = {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if plan.device == "cuda":
        if not torch.cuda.is_available():
            yield Found("machine", described)
            raise EngineError("PyTorch finds no CUDA device here: --device cpu tries the script itself")
        device = torch.cuda.get_device_properties(0)
        described |= {
            "gpu": device.name,
            "gpu_memory_gb": round(device.total_memory / 1e9, 1),
            "multiprocessors": device.multi_processor_count,
            "capability": f"{device.major}.{device.minor}",
            "cuda": str(torch.version.cuda),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    yield Found("machine", described)
    yield Found("installed", {module: _version(module, package) for module, package in OPTIONAL.items()})
    yield Found("floors", _floors(plan))


def _floors(plan: Plan) -> dict[str, float]:
    count = QUICK_COPIED if plan.quick else COPIED
    main = torch.empty(count, dtype=torch.uint8, pin_memory=plan.device == "cuda")
    own, other = (torch.empty(count, dtype=torch.uint8, device=plan.device) for _ in range(2))
    side = QUICK_SIDE if plan.quick else SIDE
    left, right = (torch.randn(side, side, device=plan.device, dtype=torch.bfloat16) for _ in range(2))
    return {
        "to_device_gb_per_second": count / 1e9 / seconds(lambda: own.copy_(main), plan),
        "copy_gb_per_second": 2 * count / 1e9 / seconds(lambda: other.copy_(own), plan),  # read and written
        "bfloat16_tflops": 2 * side**3 / 1e12 / seconds(lambda: left @ right, plan),
    }


def seconds(work: object, plan: Plan) -> float:
    """Median seconds of a call, until the device is done with it."""
    assert callable(work)

    def done() -> None:
        work()
        if plan.device == "cuda":
            torch.cuda.synchronize()

    done()
    return float(np.median(repeated(done, plan.seconds)))


def _version(module: str, package: str) -> str | None:
    """None where it cannot be imported."""
    if find_spec(module) is None:
        return None
    for name in (package, f"{package}-cpu", f"{package}-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "there"


def _driver() -> str | None:
    if (command := shutil.which("nvidia-smi")) is None:
        return None
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except subprocess.TimeoutExpired:
        return None


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
