"""What follows or calibrates a generation must not hold it while it rests: one that was replaced is let go at once."""

import asyncio
import shutil
import weakref
from pathlib import Path

import pytest

from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import JournalError
from secondlook.model.journal import JOURNAL, Journal
from secondlook.service.batching.batcher import Batcher
from secondlook.service.generations import calibrating


def opened(root: Path) -> Predictor:
    return Predictor(open_bundle(root, active_generation(root), threads=1))


def test_a_follower_holds_no_generation(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    follower = JournalFollower(Journal(root))
    predictor = follower.renew(opened(root), False)
    assert follower.is_current(predictor.overlay)
    held = weakref.ref(predictor.bundle)
    del predictor
    assert held() is None


def test_a_follower_that_cannot_read_holds_no_generation(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    follower = JournalFollower(Journal(root))
    predictor = opened(root)
    (root / JOURNAL).write_bytes(b"this is no journal" * 100)
    said = set()
    for _ in range(2):
        with pytest.raises(JournalError) as raised:
            follower.renew(predictor, False)
        said.add(str(raised.value))
        del raised
    assert len(said) == 1
    held = weakref.ref(predictor.bundle)
    del predictor
    assert held() is None


def test_what_calibrates_holds_no_generation_while_it_rests(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "SECONDS", 0.1)
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))

    async def replaced() -> None:
        batcher = Batcher(opened(root), max_batch=4)
        held = weakref.ref(batcher.predictor.bundle)
        task = asyncio.create_task(calibrating.keep_calibrated(batcher))
        await asyncio.sleep(0.25)
        batcher.predictor = opened(root)
        assert held() is None
        task.cancel()

    asyncio.run(replaced())
