"""What is measured of each way to show photos to a network is kept: a run that was stopped meanwhile goes on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.kept_features import Counts
from secondlook.indexer.index import index
from secondlook.indexer.sources import from_network
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.bundle import open_bundle
from tests.images_for_tests import COLOURS
from tests.kept_for_tests import ALONE, same
from tests.networks_for_tests import colour_classifier, written

EACH = 40
"""Photos of each class: more than a race asks in its first round."""


class StoppedError(Exception):
    """The run ends here, as if it were killed."""


class Runs:
    """What the network was run on while it was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: Counter[tuple[Any, bytes]] = Counter()
        run = from_network._run

        def counted(network: Any, images: Any) -> Any:
            if len(images) > 1:  # one is to see what it gives at all
                self.images.update((network.preprocess, image.tobytes()) for image in images)
            return run(network, images)

        monkeypatch.setattr(from_network, "_run", counted)


def stop_at(stage: str, turn: int) -> Callable[[str, int, int], None]:
    turns = iter(range(turn))

    def progress(now: str, _done: int, _total: int) -> None:
        if now == stage and next(turns, None) is None:
            raise StoppedError

    return progress


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Photos of three classes, wider than high."""
    random = np.random.default_rng(3)
    for i in range(3 * EACH):
        pixels = random.normal(110, 35, (24, 40, 3))
        pixels[..., i % 3] += 40
        (folder := tmp_path / "wide" / "rgb"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "wide"


def source(tmp_path: Path, root: Path) -> FromNetwork:
    return FromNetwork(str(written(colour_classifier(COLOURS), tmp_path)), head="none", root=root)


def embedded(photos: Path, root: Path, how: FromNetwork, progress: Any = lambda *_: None) -> tuple[str, Counts]:
    counts = Counts()
    return index(load(str(photos)), root, how, ALONE, progress, counts=counts), counts


@pytest.mark.parametrize("stage", ["measure", "export", "embed", "verify"])
def test_a_run_that_is_stopped_measures_and_embeds_nothing_twice(
    stage: str, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    whole, _ = embedded(wide, tmp_path / "other", source(tmp_path, tmp_path / "other"))
    runs = Runs(monkeypatch)
    stops, turn = 0, 3 if stage == "measure" else 0
    while True:
        try:
            generation, counts = embedded(wide, root, source(tmp_path, root), stop_at(stage, turn))
            break
        except StoppedError:
            stops, turn = stops + 1, turn + 3 if stage == "measure" else 10**6
    assert stops
    assert max(runs.images.values()) == 1
    assert counts.embedded + counts.known == 3 * EACH
    assert stage == "measure" or not counts.embedded
    same(open_bundle(root, generation), open_bundle(tmp_path / "other", whole))


def test_what_was_measured_counts_as_embedded_and_the_rest_of_it_goes(wide: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    generation, counts = embedded(wide, root, source(tmp_path, root))
    assert (counts.embedded, counts.known) == (3 * EACH, 0)
    features = open_bundle(root, generation).manifest.features
    assert [folder.name for folder in (root / "features").iterdir()] == [features]
