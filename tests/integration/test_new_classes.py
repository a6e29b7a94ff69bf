"""New classes taught to a real bundle, and asked about as a server would be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.evaluation.studies.new_classes import new_classes
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.results import write
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.errors import DatasetError
from secondlook.model.journal import Journal, NewImage
from secondlook.model.networks.preprocess import CIFAR


def patterns(root: Path, per_class: int = 8) -> Path:
    """Classes of stripes and of dots, no plain colours, in both splits."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("bars", "columns", "dots"):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = random.integers(0, 60, (32, 32, 3)).astype(np.uint8)
                if name == "bars":
                    pixels[::4] = 255
                elif name == "columns":
                    pixels[:, ::4] = 255
                else:
                    pixels[::6, ::6] = 255
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def test_new_classes_are_learned_and_the_figures_are_those_of_a_server(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(tiny_bundle, threads=1)
    new = patterns(tmp_path / "patterns")
    train, test = (load(str(new), split) for split in ("train", "test"))
    known = load(str(colour_folder))
    found = new_classes(bundle, known, train, test, shots=(1, 8), draws=1, classes=3)
    assert found.classes == (("bars", "columns", "dots"),)
    assert found.by_class.keys() == {"bars", "columns", "dots"}
    assert found.points[1].new.value == pytest.approx(np.mean([line[1] for line in found.by_class.values()]))
    assert found.points[1].first.value > 50
    paths = write(found, tmp_path / "out", "teach")
    assert {path.name for path in paths} == {"teach.json", "new-classes.png"}
    # All of it taught over the journal says the same, image by image.
    journal = Journal(tmp_path)
    for name in train.classes:
        contents = [path.read_bytes() for path in sorted((new / "train" / name).iterdir())]
        journal.add(name, [NewImage("a", content) for content in contents], "k")
    predictor = Predictor(bundle, replayed(Overlay(bundle), journal))
    right = []
    for position, label in enumerate(test.labels):
        (answer,) = predictor.predict(test.read(position, CIFAR.geometry)[None], [predictor.defaults])
        assert not isinstance(answer, Exception)
        right.append(predictor.classes[int(answer.mixed.argmax())] == test.classes[label])
    assert found.points[1].new.value == pytest.approx(100 * np.mean(right))


def test_a_dataset_of_known_classes_teaches_nothing_new(tiny_bundle: Path, colour_folder: Path) -> None:
    bundle, known = open_bundle(tiny_bundle, threads=1), load(str(colour_folder))
    with pytest.raises(DatasetError, match="classes that the bundle does not know"):
        new_classes(bundle, known, known, known, shots=(1,), classes=1)
