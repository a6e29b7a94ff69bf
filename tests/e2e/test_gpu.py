"""``python -m benchmarks.gpu`` on a processor: all of it, and with nothing but PyTorch and numpy installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import paper
from secondlook.evaluation.paper.published import ROWS
from secondlook.indexer.datasets.published import Batches
from secondlook.model.cache import exact_vote, softmax
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.cifar_recipes import cifar_recipe
from secondlook.model.networks.encoder import Encoder

SERVER = (
    "annotated_types",
    "faiss",
    "fastapi",
    "httptools",
    "pi_heif",
    "pydantic",
    "pydantic_core",
    "starlette",
    "uvicorn",
)
"""What a machine with PyTorch's own surroundings lacks."""
SURROUNDINGS = ("PIL", "click", "h5py", "onnx", "onnxruntime", "onnxscript", "rich", "safetensors", "scipy", "sklearn")
MORE = ("openvino", "pydantic_settings", "timm", "torchvision", "transformers", "uvloop")
HIDING = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def without(folder: Path, modules: tuple[str, ...]) -> dict[str, str]:
    """An environment in which no Python, whoever starts it, finds these modules."""
    (folder / "sitecustomize.py").write_text(f"HIDDEN = {modules!r}\n{HIDING}")
    return {"PYTHONPATH": f"{folder}:{Path.cwd()}"}


def gpu(out: Path, *arguments: object, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--out", str(out)]
    ended = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert out.is_file(), ended.stderr
    return ended, json.loads(out.read_text())


def test_every_part_runs_and_agrees(tmp_path: Path) -> None:
    ended, result = gpu(tmp_path / "runs/gpu.json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert result["agrees"]
    assert result["device"] == "cpu"
    parts = result["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "measured",
        "cifar": "agrees",
        "resnet50": "agrees",
        "search": "agrees",
        "index": "measured",
        "serve": "agrees",
        "efficientnet": "agrees",
        "paper": "left out",
        "graphs": "agrees",
    }
    assert all(not part["failed"] for part in parts.values())
    assert parts["machine"]["found"]["installed"]["faiss"]

    engines = parts["cifar"]["found"]
    assert engines["what"]["network"] == "resnet32 of the default bundle"
    assert engines["cpu float32"]["logits_difference"] == 0
    assert 0 < engines["cpu bfloat16"]["logits_difference"] < 0.1
    assert 0 < engines["onnxruntime float32"]["logits_difference"] < 1e-3
    assert engines["cpu float32"]["images_per_second"].keys() == {"1", "16"}

    for found in parts["search"]["found"].values():
        assert found["same_neighbours_percent"] > 99
        assert found["same_first_class_percent"] == 100
        assert found["queries_per_second"].keys() == {"numpy", "cpu"}

    index = parts["index"]["found"]
    assert index["cpu float32"]["images_per_second"] <= index["cpu float32"]["embedded_per_second"]
    assert index["secondlook index"]["images"] == 128

    served = parts["serve"]["found"]
    assert served.keys() == {"in process, cpu float32", "in process, cpu bfloat16", "server, cpu"}
    for found in served.values():
        for load in found["connections"].values():
            assert load["images_per_second"] > 0
            assert 0 < load["p50_ms"] <= load["p99_ms"]

    assert parts["graphs"]["left_out"]["resnet32: CUDA graph"] == "it needs CUDA"
    assert parts["graphs"]["found"]["resnet50: weights in bfloat16"]["logits_difference"] > 0
    assert "--weights" in parts["paper"]["left_out"]["paper"]
    for name in parts:
        assert f"\n{name}: {parts[name]['status']}\n" in ended.stdout


def test_torch_and_numpy_are_enough(tmp_path: Path) -> None:
    names = ("machine", "cifar", "search", "index", "serve", "efficientnet", "graphs")
    hidden = without(tmp_path, SERVER + SURROUNDINGS + MORE)
    ended, result = gpu(tmp_path / "gpu.json", *(f"--part={name}" for name in names), **hidden)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts = result["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "measured",
        "cifar": "agrees",
        "search": "agrees",
        "index": "measured",
        "serve": "agrees",
        "efficientnet": "left out",
        "graphs": "agrees",
    }
    assert {name for name, there in parts["machine"]["found"]["installed"].items() if there} <= {"triton", "secondlook"}
    assert parts["cifar"]["found"]["what"]["network"] == "resnet32, random weights (safetensors is not installed)"
    assert parts["efficientnet"]["left_out"] == {"efficientnet": "torchvision is not installed"}
    assert parts["serve"]["left_out"] == {"server, cpu": "fastapi is not installed"}
    assert parts["index"]["left_out"] == {"secondlook index": "the default bundle's network was not read"}


def test_the_project_s_network_is_measured_where_nothing_of_a_server_is_installed(tmp_path: Path) -> None:
    ended, result = gpu(tmp_path / "gpu.json", "--part=cifar", **without(tmp_path, SERVER))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = result["parts"]["cifar"]["found"]
    assert found["what"]["network"] == "resnet32 of the default bundle"
    assert found["onnxruntime float32"]["agrees"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_so_at_once(tmp_path: Path) -> None:
    ended, result = gpu(tmp_path / "gpu.json", "--device", "cuda")
    assert ended.returncode == 1
    assert "PyTorch finds no CUDA device here: --device cpu" in result["parts"]["machine"]["failed"]
    assert {part["status"] for name, part in result["parts"].items() if name != "machine"} == {"left out"}


def test_the_paper_s_errors_are_those_of_the_exact_sum() -> None:
    random = np.random.default_rng(0)
    network = ResNet(20, 10, "keras").eval()
    train, test = (
        Batches(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, count), (), [])
        for count in (40, 60)
    )
    network.set_pixel_statistics(np.concatenate((train.images, test.images)))
    row = ROWS[0]
    found = paper.errors(network, row, train, test, "cpu")

    encoder = Encoder(network, cifar_recipe("paper", 20))
    with torch.inference_mode():
        normalized = network.normalize(torch.from_numpy(train.images))
        own = [
            encoder.keys(network.activations(images, encoder.recipe.all_layers)[1]).numpy()
            for images in (normalized, normalized.flip(-1))
        ]
        logits, queries = (tensor.numpy() for tensor in encoder(torch.from_numpy(test.images)))
    entries = [(keys, train.labels) for keys in own]
    votes, _, _ = exact_vote(queries, entries, (row.theta, row.cache_theta), 10)
    mixed = (1 - row.lam) * softmax(logits) + row.lam * votes[0]
    expected = {
        name: 100 * float((says.argmax(axis=1) != test.labels).mean())
        for name, says in (("network", logits), ("mixed", mixed), ("cache_only", votes[1]))
    }
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) > 1
