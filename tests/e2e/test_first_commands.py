"""The first commands of the documents are run as written, on photos and a network made here, without PyTorch."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.images_for_tests import COLOURS, make_folder, make_image
from tests.networks_for_tests import colour_classifier, written

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^\$ (.*?)(?: +# .*)?$", re.MULTILINE)


def console(page: str) -> list[str]:
    """The commands of a page's block that begins with a network."""
    text = (ROOT / page).read_text()
    found = re.search(r"^```console\n(\$ secondlook network .*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return COMMAND.findall(found[1])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with photos, a network's file and a photo, as the documents call them."""
    make_folder(tmp_path / "photos", per_class=20)
    written(colour_classifier({"other": (90, 90, 90), **COLOURS}), tmp_path, "network")
    (tmp_path / "photo.jpg").write_bytes(make_image("green", (64, 48), "JPEG", seed=77))
    # Whatever imports it here fails: an ONNX file needs none of it.
    (tmp_path / "without" / "torch").mkdir(parents=True)
    (tmp_path / "without" / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('torch', name='torch')\n")
    return tmp_path


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    bin = Path(sys.executable).parent
    assert (bin / "secondlook").exists()
    path = f"{bin}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "PYTHONPATH": os.pathsep.join((str(place / "without"), str(ROOT)))}


def run(command: list[str] | str, place: Path, environment: dict[str, str]) -> str:
    shell = isinstance(command, str)
    ended = subprocess.run(
        command, shell=shell, cwd=place, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@contextmanager
def started(command: str, place: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of what a command serves, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = place / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, shell=True, cwd=place, env=environment | {"SECONDLOOK_PORT": str(port)}, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "ready: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.parametrize("page", ["README.md", "docs/networks.md"])
def test_a_network_and_photos_become_a_server_and_a_line_of_python(
    page: str, place: Path, environment: dict[str, str]
) -> None:
    shown, indexed, served = console(page)
    said = run(shown, place, environment)
    assert "red" in said
    assert "pixels: " in said
    generation = run(indexed, place, environment).split()[-1]
    with started(served, place, environment) as address:
        model = httpx.get(f"{address}/v1/model", timeout=30).json()
        assert (model["generation"], model["head"], model["classes"]) == (generation, "network", sorted(COLOURS))
        photo = {"file": ("photo.jpg", (place / "photo.jpg").read_bytes())}
        answer = httpx.post(f"{address}/v1/predict", files=photo, timeout=30).json()["predictions"][0]
    assert answer["label"] == "green"
    assert answer["network"]["label"] == "green"
    if page == "README.md":
        (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        assert run([sys.executable, "-c", code], place, environment) == "green\n"
