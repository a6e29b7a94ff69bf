"""Class token or mean of tokens, by measurement on real graphs."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.fitting.pooling import best_pool
from secondlook.model.networks.onnx_network import open_onnx
from tests.images_for_tests import make_shades
from tests.networks_for_tests import Builder, classifier, written


def tokens(*, telling: str) -> ModelProto:
    """A backbone of 16 patches and a class token (17,3): one of the two kinds says what colour there is."""
    build = Builder()
    patches = build.node("AveragePool", "image", kernel_shape=[8, 8], strides=[8, 8])
    patches = build.node("Reshape", patches, build.constant(np.array([0, 3, 16], np.int64)))
    patches = build.node("Transpose", patches, perm=[0, 2, 1])
    one = build.node("ReduceMean", patches, axes=[1], keepdims=1)
    nothing = build.constant(np.zeros(1, np.float32)), build.constant(np.ones(3, np.float32))
    if telling == "cls":
        patches = build.node("Add", build.node("Mul", patches, nothing[0]), nothing[1])
    else:
        one = build.node("Add", build.node("Mul", one, nothing[0]), nothing[1])
    return build.model(outputs=[build.node("Concat", one, patches, axis=1)])


@pytest.mark.parametrize("telling", ["cls", "mean"])
def test_what_tells_the_labels_is_taken(telling: str, tmp_path: Path) -> None:
    network = open_onnx(written(tokens(telling=telling), tmp_path))
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
