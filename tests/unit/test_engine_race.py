"""The fastest of the engines that may run a bundle is taken, found out once on a machine."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secondlook.model.bundles import engine_choice, engine_race
from secondlook.model.bundles.engine_race import Measured, race
from secondlook.model.errors import EngineError
from secondlook.model.networks.engines import Encoding, EngineName

ALL: list[EngineName] = ["onnxruntime", "openvino-f32", "openvino-bf16", "openvino-int8"]


class Clock:
    """A time that only goes on when an engine works: what else the machine does is no part of it."""

    now = 0.0


class Timed:
    """Takes so many seconds of the clock for each image."""

    name, size, classes, dim = "timed", (4, 4), 2, 2

    def __init__(self, seconds: float, says: float = 0.0) -> None:
        self._seconds, self._says = seconds, says

    def encode(self, images: NDArray[np.uint8]) -> Encoding:
        Clock.now += self._seconds * len(images)
        return Encoding(np.full((len(images), 2), self._says, np.float32), np.ones((len(images), 2), np.float32))


def raced(monkeypatch: pytest.MonkeyPatch, *engines: Timed | Exception) -> Measured:
    of = dict(zip(ALL, engines, strict=False))

    def opened(folder: Path, name: EngineName, threads: int, *, spare_core: bool) -> Timed:
        engine = of[name]
        if isinstance(engine, Exception):
            raise engine
        return engine

    monkeypatch.setattr("time.perf_counter", lambda: Clock.now)
    monkeypatch.setattr(engine_race, "open_engine", opened)
    return race(list(of), Path(), 1, spare_core=False)


def test_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = raced(monkeypatch, Timed(0.002), Timed(0.004), Timed(0.0005), Timed(0.001))
    assert found.fastest == "openvino-bf16"
    assert list(found.rates) == ALL
    assert found.rates["openvino-f32"][0] < 1 < found.rates["openvino-int8"][0]
    assert found.said.startswith("measured here: ")
    assert found.said.endswith(" times the speed of onnxruntime")


def test_what_is_hardly_faster_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = raced(monkeypatch, Timed(0.01), Timed(0.01))
    assert found.fastest == "onnxruntime"
    assert found.said.startswith("measured here: no other is clearly faster (times its speed: openvino-f32 ")


def test_float32_that_says_something_else_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = raced(monkeypatch, Timed(0.002), Timed(0.0005, says=0.01), Timed(0.001, says=0.01))
    assert found.fastest == "openvino-bf16"
    assert "openvino-f32" not in found.rates
    assert "openvino-f32 is left out: it does not answer as onnxruntime does" in caplog.text


def test_one_that_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    found = raced(monkeypatch, Timed(0.002), RuntimeError("no such instruction"), Timed(0.0005))
    assert found.fastest == "openvino-bf16"
    assert "openvino-f32 is left out: no such instruction" in caplog.text


def test_where_the_first_does_not_run_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="no graph"):
        raced(monkeypatch, EngineError("no graph"), Timed(0.001))


def test_auto_needs_no_openvino() -> None:
    engine_choice.check_installed("auto")
