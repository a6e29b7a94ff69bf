"""A server's engine by itself: measured on this machine, kept, and never one that does not keep the answers."""

import json
from pathlib import Path
from typing import Never

import pytest

from secondlook.model.bundles import engine_race, engines
from secondlook.model.bundles.bundle import Bundle, open_bundle
from tests.engines_for_tests import need_openvino


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where speeds are kept; every encoder is worth measuring here, and quickly."""
    monkeypatch.setattr(engines, "SMALL_BYTES", 0)
    monkeypatch.setattr(engine_race, "SECONDS", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "secondlook" / "engines"


def measured_again(*_: object, **__: object) -> Never:
    raise AssertionError("it was measured before")


def auto(root: Path) -> Bundle:
    return open_bundle(root, engine="auto")


def test_what_was_measured_holds_for_later_servers(
    tiny_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_openvino()
    first = auto(tiny_bundle)
    assert first.engine_why.startswith("measured here: ")
    (kept,) = cache.iterdir()
    measured = json.loads(kept.read_text())
    # The bundle was not held to float32 in any other precision.
    assert set(measured["rates"]) == {"onnxruntime", "openvino-f32"}
    monkeypatch.setattr(engine_race, "race", measured_again)
    assert auto(tiny_bundle).engine_why == first.engine_why
    other = "onnxruntime" if measured["fastest"] == "openvino-f32" else "openvino-f32"
    kept.write_text(json.dumps(measured | {"fastest": other}))
    assert auto(tiny_bundle).engine.name.startswith(other.partition("-")[0])


@pytest.mark.parametrize(
    "content", ["", "{", '{"fastest": "openvino-int8", "rates": {"openvino-int8": [2, 2]}}', '{"fastest": "x"}', "[]"]
)
def test_a_file_that_does_not_say_it_is_measured_anew(tiny_bundle: Path, cache: Path, content: str) -> None:
    need_openvino()
    why = auto(tiny_bundle).engine_why
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert auto(tiny_bundle).engine_why.partition(":")[0] == why.partition(":")[0]
    assert set(json.loads(kept.read_text())["rates"]) == {"onnxruntime", "openvino-f32"}


def test_nothing_need_be_writable(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_openvino()
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert auto(tiny_bundle).engine_why.startswith("measured here: ")


def test_another_number_of_threads_is_another_question(tiny_bundle: Path, cache: Path) -> None:
    need_openvino()
    for threads in (1, 2):
        open_bundle(tiny_bundle, engine="auto", threads=threads)
    assert len(list(cache.iterdir())) == 2


def test_a_small_encoder_is_not_measured(tiny_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SMALL_BYTES", 4 << 20)
    bundle = auto(tiny_bundle)
    assert bundle.engine.name.startswith("onnxruntime ")
    assert bundle.engine_why == "the encoder is small: engines do not differ enough to be measured"
    assert not cache.exists()


def test_without_openvino_there_is_one(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.OLDER, "SSE41")
    assert auto(tiny_bundle).engine_why == "the only one here: OpenVINO does not run while ONEDNN_MAX_CPU_ISA is set"
