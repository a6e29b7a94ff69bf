"""What is kept of what was embedded, where files are damaged, nothing can be written, or a run ends in between."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding import kept_features
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import index
from tests.kept_for_tests import FIXED, built, files, same


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(5000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut, flip, another, empty, zeros])
def test_a_damaged_file_is_told_and_its_images_are_embedded_again(
    damage: Any,
    shades: Path,
    tmp_path: Path,
    source: FromBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kept_features, "CHUNK", 64)
    first, _ = built(shades, tmp_path / "root", source, FIXED)
    damaged, *_ = (path for path in files(tmp_path / "root"))
    with np.load(damaged) as arrays:
        lost = len(arrays["digests"])
    damage(damaged)
    again, counts = built(shades, tmp_path / "root", source, FIXED)
    assert (counts.embedded, counts.known) == (lost, 90 - lost)
    assert sum("damaged" in record.message for record in caplog.records) == 1
    same(again, first)
    caplog.clear()
    _, counts = built(shades, tmp_path / "root", source, FIXED)
    assert (counts.embedded, counts.known) == (0, 90)
    assert not caplog.records


def test_where_nothing_can_be_kept_it_goes_on_and_says_so_once(
    shades: Path, tmp_path: Path, source: FromBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept_features, "CHUNK", 64)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "features").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        _, counts = built(shades, tmp_path / "root", source, FIXED)
    assert (counts.embedded, counts.known) == (90, 0)
    assert sum("not kept for later runs" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 40_000), ("SPARED_BYTES", 1 << 60)])
def test_no_more_is_kept_than_there_is_room_for(
    limit: str, value: int, shades: Path, tmp_path: Path, source: FromBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "CHUNK", 64)
    monkeypatch.setattr(kept_features, limit, value)
    built(shades, tmp_path / "root", source, FIXED)
    assert sum(path.stat().st_size for path in files(tmp_path / "root")) <= value
    _, counts = built(shades, tmp_path / "root", source, FIXED)
    assert counts.embedded > 0


def test_wide_keys_are_not_kept(
    shades: Path, tmp_path: Path, source: FromBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "WIDEST", 2)
    bundle, _ = built(shades, tmp_path / "root", source, FIXED)
    assert bundle.store.dim > 2
    assert not (tmp_path / "root" / "features").exists()


class _StoppedError(Exception):
    pass


def test_what_was_embedded_until_it_is_stopped_is_not_embedded_again(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "embed" and done >= 64:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        index(load(str(shades)), tmp_path / "root", source, FIXED, stop)
    _, counts = built(shades, tmp_path / "root", source, FIXED)
    assert counts.known >= 63
    assert counts.embedded + counts.known == 90
