"""What docs/clients.md shows is run as it stands, but for the server's address."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import make_folder, make_image

DOCUMENT = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
NODE = 20


@pytest.fixture
def server(serve: Callable[..., Server], tiny_bundle: Path, tmp_path: Path) -> Server:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    make_folder(tmp_path / "data" / "photos", per_class=30)
    (tmp_path / "cat.png").write_bytes(make_image("red", seed=501))
    (tmp_path / "dog.png").write_bytes(make_image("green", seed=502))
    return serve(bundles=root, data=tmp_path / "data", admin_key=KEY)


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found
    return found


def ran(server: Server, folder: Path, command: list[str], code: str) -> str:
    """What the code writes when it is run in the folder; it must succeed."""
    assert ADDRESS in code
    environment = {**os.environ, "SECONDLOOK_KEY": KEY, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        command,
        input=code.replace(ADDRESS, server.url),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def generations(server: Server) -> list[str]:
    headers = {"Authorization": f"Bearer {KEY}"}
    return [one["id"] for one in httpx.get(f"{server.url}/v1/admin/generations", headers=headers).json()]


def taught(server: Server) -> list[str]:
    return [one["label"] for one in httpx.get(f"{server.url}/v1/entries?taught=true").json()["entries"]]


def test_python(server: Server, tmp_path: Path) -> None:
    code = "\n".join(blocks("python"))
    said = ran(server, tmp_path, [sys.executable, "-W", "error", "-"], code)
    assert re.match(r"red (known|doubtful|unknown|None) \[('red/\d+.png'(, )?){3}\]\n", said)
    assert said.count("of the vote: red") == 3
    assert re.search(r"^\d+ numbers, -?[01]\.\d{3} alike$", said, re.MULTILINE)
    assert len(re.findall(r"^  [01]\.\d{3} red, red/", said, re.MULTILINE)) == 5
    assert "missing.png failed: missing.png: No such file" in said
    assert "pets is new" in said
    assert [action for action in ("taught", "relabelled", "removed") if f" {action} " in said] == [
        "taught",
        "relabelled",
        "removed",
    ]
    assert "1 taught entries" in said
    assert taught(server) == ["dogs at home"]
    first, second = generations(server)
    assert f"{second} " in said
    assert httpx.get(f"{server.url}/v1/model").json()["generation"] == first


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl(server: Server, tmp_path: Path) -> None:
    said = ran(server, tmp_path, ["bash", "-euo", "pipefail"], "\n".join(blocks("bash")))
    assert said.count('"predictions"') == 2
    assert said.count('"similarity"') == 5 + 2 * 3
    embedded = json.loads((tmp_path / "keys.json").read_text())
    keys = np.frombuffer((tmp_path / "keys.f32").read_bytes(), "<f4").reshape(2, -1)
    np.testing.assert_allclose([one["embedding"] for one in embedded["embeddings"]], keys, atol=1e-5)
    assert '"is_new_class":true' in said.replace(" ", "")
    assert '"action":"removed"' in said
    assert '"state":"succeeded"' in said
    assert taught(server) == ["pets"]
    assert len(generations(server)) == 2


def test_javascript(server: Server, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node here")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE:
        pytest.skip(f"node is {version}: fetch, FormData and openAsBlob are in {NODE}")
    functions, in_node = blocks("javascript")
    said = ran(server, tmp_path, [node, "--input-type=module"], functions + in_node)
    assert re.search(r"^red [01]", said, re.MULTILINE)
    assert "is_new_class: true" in said
    assert "state: 'succeeded'" in said
    assert taught(server) == ["pets", "pets"]
    assert len(generations(server)) == 2


def test_the_command(server: Server, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "data" / "photos" / "red", tmp_path / "photos")
    lines = [line.partition("#")[0].removeprefix("$ ") for line in "".join(blocks("console")).splitlines()]
    assert len(lines) == 4
    code = "\n".join(line.replace("secondlook", f"'{sys.executable}' -m secondlook", 1) for line in lines)
    said = ran(server, tmp_path, ["bash", "-euo", "pipefail"], code)
    assert len(said.splitlines()) == 31 + 30
    assert np.load(tmp_path / "keys.npy").shape[0] == 30
    assert len((tmp_path / "photos.csv").read_text().splitlines()) == 31
