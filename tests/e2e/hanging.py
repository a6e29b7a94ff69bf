"""Server processes in which parts can be made to hang, as a library, a disk or a bug would have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# Python runs it at the start of each process that finds it, of workers too. What hangs sleeps in C, outside of Python.
_CUSTOM = """
import ctypes, os, pathlib
flags = pathlib.Path(os.environ["HANGS_BELOW"])
def hang(name):
    while (flags / name).exists():
        ctypes.CDLL(None).usleep(500_000)
def hung(name, function):
    def either(*given, **named):
        hang(name)
        return function(*given, **named)
    return either
from secondlook.model.answering.predictor import Predictor
from secondlook.service.generations import switching
from secondlook.service.routes import model
Predictor.predict = hung("compute", Predictor.predict)
switching.active_generation = hung("disk", switching.active_generation)
switching.generations = hung("disk", switching.generations)
model.model_info = hung("loop", model.model_info)
"""


class Hangs:
    """Which parts hang in the processes that are started from now on, and from when on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        (folder / "code").mkdir(parents=True)
        (folder / "code" / "sitecustomize.py").write_text(_CUSTOM)
        monkeypatch.setenv("PYTHONPATH", str(folder / "code"))
        monkeypatch.setenv("HANGS_BELOW", str(folder))

    def begin(self, name: str) -> Callable[[], None]:
        """Have "compute", "disk" or "loop" hang from its next call on; gives what ends it."""
        (self._folder / name).touch()
        return (self._folder / name).unlink
