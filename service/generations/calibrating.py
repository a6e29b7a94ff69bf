"""Calibrates prediction sets and credibility anew after entries were added, on a thread that gives way to answers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module

import faiss

from secondlook.indexer.fitting.added import calibrate_with_added
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.errors import SecondlookError
from secondlook.service.batching.batcher import Batcher

# What NumPy imports when it first opens an archive, or looks for what is distinct: now, not when open files are few.
for _module in ("encodings.cp437", "numpy.ma"):
    import_module(_module)

logger = logging.getLogger(__name__)

SECONDS = 1.0
"""How often it is looked whether anything was taught."""
SHARE = 0.1
"""Of the time, so much goes into calibrating while teaching goes on."""
REST = 0.5
"""And of the time of one calibration, so much is left to answers between its batches."""


async def keep_calibrated(batcher: Batcher) -> None:
    """Calibrate anew whenever entries were added, relabelled or removed; runs until cancelled."""
    complaint, rest = "", SECONDS
    thread = ThreadPoolExecutor(1, thread_name_prefix="calibrate", initializer=behind_all)
    try:
        while True:
            await asyncio.sleep(rest)
            rest, complaint = await _calibrated(batcher, thread, complaint)
    finally:
        thread.shutdown(wait=False)


async def _calibrated(batcher: Batcher, thread: ThreadPoolExecutor, complaint: str) -> tuple[float, str]:
    """Calibrate what answers now; for how long to rest then, and the complaint that was said last.

    In a call of its own: what rests must not hold a generation that was replaced meanwhile.
    """
    predictor = batcher.predictor
    bundle, overlay = predictor.bundle, predictor.overlay
    if bundle.calibrated.change == overlay.change or bundle.is_store_unreachable:
        return SECONDS, complaint
    started = time.monotonic()
    stopped = threading.Event()
    try:
        await asyncio.get_running_loop().run_in_executor(thread, _calibrate, bundle, overlay, stopped)
        complaint = ""
    except SecondlookError as error:
        if str(error) != complaint:
            complaint = str(error)
            logger.warning("the calibration is not made anew: %s", error)
    except Exception:  # a fault of ours: what is served stays as it is, and the next change is tried
        logger.exception("the calibration is not made anew")
        bundle.calibrated.change = overlay.change
    finally:
        stopped.set()  # a server that stops does not wait for it
    return SECONDS + (time.monotonic() - started) * (1 - SHARE) / SHARE, complaint


def _calibrate(bundle: Bundle, overlay: Overlay, stopped: threading.Event) -> None:
    last = time.monotonic()

    def step() -> None:
        nonlocal last
        stopped.wait((time.monotonic() - last) * REST / (1 - REST))
        if stopped.is_set():
            raise _StoppedError
        last = time.monotonic()

    with suppress(_StoppedError):
        bundle.calibrated.calibration = calibrate_with_added(bundle, overlay, step)
        bundle.calibrated.change = overlay.change


class _StoppedError(Exception):
    """The server stops."""


def behind_all() -> None:
    """One core at most, and only what nobody else wants."""
    faiss.omp_set_num_threads(1)
    if sys.platform == "linux":  # elsewhere priorities are the process's
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
