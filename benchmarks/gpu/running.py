"""Parts, each in a process of its own: a crash, a hang or a broken CUDA context ends one part, not the run."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.gpu.plan import Clock, Found, LeftOut, NotHereError, Outcome, Part, Plan

GRACE = 10.0
"""Seconds beyond its time after which a part is ended: until then it may see for itself that its time is over."""


def run_parts(
    parts: Mapping[str, tuple[str, float]], plan: Plan, seconds: float, told: Callable[[str], None]
) -> list[Outcome]:
    """Run parts in order, each given as the place of its function (``package.module:function``) and its seconds.

    All of them take so many seconds at most; what there is no time left for is left out, and so is all behind a
    ``machine`` that fails.
    """
    clock = Clock(seconds)
    # Its server loads PyTorch once, for all parts, and never touches the device.
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    outcomes: list[Outcome] = []
    for name, (place, own) in parts.items():
        if outcomes and outcomes[0].part == "machine" and outcomes[0].failed:
            outcomes.append(Outcome(name, left_out=[LeftOut("", "there is no machine to measure it on")]))
        elif (given := min(own, clock.left - GRACE)) < min(own, 5.0):
            outcomes.append(Outcome(name, left_out=[LeftOut("", "no time was left for it")]))
        else:
            told(f"{name} ...")
            outcomes.append(_run(context, name, place, plan, given))
        told(f"{name}: {outcomes[-1].status} ({outcomes[-1].seconds:.1f} s)")
    return outcomes


def _run(context: object, name: str, place: str, plan: Plan, seconds: float) -> Outcome:
    ours, theirs = context.Pipe(duplex=False)  # type: ignore[attr-defined]
    process = context.Process(target=_work, args=(theirs, place, plan, seconds))  # type: ignore[attr-defined]
    outcome, started = Outcome(name), time.monotonic()
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, started + seconds + GRACE - time.monotonic())):
                outcome.failed = f"it was ended after {seconds + GRACE:.0f} s"
                break
            match ours.recv():
                case Found() as found:
                    outcome.found.append(found)
                case LeftOut() as left_out:
                    outcome.left_out.append(left_out)
                case str() as failed:
                    outcome.failed = failed
                    break
                case None:
                    break
    except EOFError:
        process.join()
        outcome.failed = f"its process ended with {process.exitcode}"
    finally:
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
        process.join()
        ours.close()
    outcome.seconds = time.monotonic() - started
    return outcome


def _work(connection: Connection, place: str, plan: Plan, seconds: float) -> None:
    """Run one part, here."""
    os.setsid()
    module, _, function = place.partition(":")
    try:
        part: Part = getattr(import_module(module), function)
        for found in part(plan, Clock(seconds)):
            connection.send(found)
    except NotHereError as error:
        connection.send(LeftOut("", str(error)))
    except ModuleNotFoundError as error:
        connection.send(missing(error))
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}"[:500])
    connection.send(None)


def missing(error: ModuleNotFoundError, name: str = "") -> LeftOut:
    """Say what is not installed.

    Raises:
        ModuleNotFoundError: it is ours.
    """
    if isinstance(error, PackageNotFoundError):
        return LeftOut(name, f"{error.name} is not installed as a package, whose version is asked for")
    if (error.name or "").partition(".")[0] in ("secondlook", "benchmarks"):
        raise error
    return LeftOut(name, f"{error.name} is not installed")
