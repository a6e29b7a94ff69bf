"""Serving and classifying import nothing that only indexing needs: real processes, and what each of them asks for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secondlook.model.bundles.root import active_generation
from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import COLOURS, make_folder, make_image
from tests.networks_for_tests import colour_classifier, written
from tests.service_for_tests import copy_root

NEEDLESS = (
    "torch",
    "torchvision",
    "onnx",
    "timm",
    "transformers",
    "huggingface_hub",
    "keras",
    "safetensors",
    "sklearn",
)
SITE = f"""
import importlib.abc, os, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {NEEDLESS} and name != os.environ.get("ALLOWED"):
            with open(os.environ["ASKED_FOR"], "a") as file:
                file.write(name + "\\n")
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        if name == "secondlook":
            with open(os.environ["ASKED_FOR"] + ".began", "a") as file:
                file.write(f"{{os.getpid()}}\\n")

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the modules that processes started in this test asked for; none of them gets one."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("ASKED_FOR", str(tmp_path / "asked"))
    return tmp_path / "asked"


def run(*words: object) -> str:
    """What a command prints, in a process of its own."""
    ended = subprocess.run([sys.executable, "-m", "secondlook", *map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle as of any ONNX network: its module cannot be rebuilt."""
    made = copy_root(tiny_bundle, tmp_path / "bundles")
    path = made / active_generation(made) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["network.safetensors"]
    path.write_text(json.dumps(manifest))
    path.with_name("network.safetensors").unlink()
    return made


def test_classifying_and_verifying_import_none_of_them(root: Path, asked_for: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(make_image("red"))
    run("classify", tmp_path / "red.png", "--json", "--bundles", root)
    run("bundles", "verify", "--bundles", root)
    assert asked_for.with_name("asked.began").exists()
    assert not asked_for.exists(), asked_for.read_text()


def test_an_onnx_file_is_indexed_with_onnx_and_answers_without(
    colour_folder: Path, asked_for: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = written(colour_classifier({name: COLOURS[name] for name in sorted(COLOURS)}), tmp_path)
    (tmp_path / "red.png").write_bytes(make_image("red", seed=7))
    bundles = ("--bundles", tmp_path / "any")
    monkeypatch.setenv("ALLOWED", "onnx")
    run("index", colour_folder, "--network", network, *bundles)
    run("evaluate", make_folder(tmp_path / "few", 3), *bundles)
    monkeypatch.setenv("ALLOWED", "")
    assert json.loads(run("classify", tmp_path / "red.png", "--json", *bundles))["network"]["label"] == "red"
    assert not asked_for.exists(), asked_for.read_text()


def test_a_server_that_answers_and_is_taught_imports_none_of_them(
    root: Path, asked_for: Path, serve: Callable[..., Server]
) -> None:
    server = serve(bundles=root, admin_key=KEY)
    image, headers = make_image("red"), {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{server.url}/v1/predict", files={"file": image}, timeout=60)
    assert answer.status_code == 200, answer.text
    taught = httpx.post(
        f"{server.url}/v1/entries", files={"file": image}, data={"label": "red"}, headers=headers, timeout=60
    )
    assert taught.status_code == 201, taught.text
    assert httpx.get(f"{server.url}/v1/model").status_code == 200
    assert server.stop() == 0
    assert asked_for.with_name("asked.began").exists()
    assert not asked_for.exists(), asked_for.read_text()
