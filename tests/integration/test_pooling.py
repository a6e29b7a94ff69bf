"""Class token or mean of tokens, by measurement on real graphs."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.fitting.pooling import best_pool
from secondlook.model.networks.onnx_network import open_onnx
from tests.images_for_tests import make_shades
from tests.networks_for_tests import classifier, colour_tokens, written


@pytest.mark.parametrize("telling", ["cls", "mean"])
def test_what_tells_the_labels_is_taken(telling: str, tmp_path: Path) -> None:
    network = open_onnx(written(colour_tokens(telling=telling), tmp_path))
    dataset = load(str(make_shades(tmp_path / "shades", per_class=12)))
    images, positions = read_all(dataset, network.preprocess.geometry)
    choice = best_pool(network, images, dataset.labels[positions])
    assert choice.pool == telling
    dull = "mean" if telling == "cls" else "cls"
    assert choice.nll[dull] > 0.9 * np.log(3)
    assert choice.nll[telling] < choice.nll[dull] / 2


def test_where_there_is_one_way_nothing_is_tried(tmp_path: Path) -> None:
    network = open_onnx(written(classifier(), tmp_path))
    images = network.probe(4)
    assert best_pool(network, images, np.array([0, 0, 1, 1])) == (None, {})
