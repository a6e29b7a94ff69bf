"""The measurement at ImageNet's size, of a few made images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images_for_tests import make_shades

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_index_a_server_and_stores_are_measured(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.file import save_network

    torch.manual_seed(0)
    make_shades(tmp_path / "data/cifar100/train", 60)
    make_shades(tmp_path / "data/cifar100/test", 30, seed=1)
    classes = tuple(sorted(folder.name for folder in (tmp_path / "data/cifar100/train").iterdir()))
    save_network(ResNet(32, len(classes)).eval(), tmp_path / "network.safetensors", classes=classes, trained_on="")
    command = [sys.executable, "-m", "benchmarks.at_size", "--folder", str(tmp_path / "out"), "--data-root"]
    command += [str(tmp_path / "data"), "--network", str(tmp_path / "network.safetensors"), "--ways", "2"]

    def run(*more: str) -> dict[str, dict[str, float]]:
        done = subprocess.run(
            [*command, "--seconds", "0.05", "--json", *more],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, float]] = json.loads(done.stdout)
        return found

    found = run("--store", "IVF4,SQ8")
    assert list(found) == ["index", "serve", "sizes"]
    images = 60 * len(classes)
    assert found["index"]["entries"] == 2 * 2 * images
    assert 0 < found["index"]["peak_bytes"] < 4e9
    assert found["index"]["holdout"] == found["serve"]["images"] == 15 * len(classes)
    assert found["serve"]["same_top1_percent"] >= 90
    assert found["serve"]["resident_bytes"] > found["serve"]["store_bytes"]
    assert (tmp_path / "out/at-size.png").exists()
    # Nothing is embedded again, and what the other parts found stays.
    again = run("--part", "index", "--store", "SQ8")
    assert again["index"]["store"] == "SQ8"  # type: ignore[comparison-overlap]
    assert again["serve"] == found["serve"]
