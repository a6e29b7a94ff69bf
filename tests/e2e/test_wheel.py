"""The wheel, installed and used from a folder whose own packages are called like our rooms."""

import re
import site
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import KEY, Server, generation, until
from tests.images_for_tests import make_folder, make_image
from tests.service_for_tests import ADMIN, copy_root

Serve = Callable[..., Server]

ROOT = Path(__file__).parents[2]
ROOMS = ("model", "indexer", "curation", "evaluation", "service", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, ROOT)
    subprocess.run(command, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel; what it depends on comes from the environment of the tests."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", home), check=True)
    python = home / "bin" / "python"
    command = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    subprocess.run(command, check=True, capture_output=True)
    where = subprocess.run(
        (python, "-c", "import site; print(site.getsitepackages()[0])"), capture_output=True, text=True
    )
    depends = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    Path(where.stdout.strip(), "zz_depends.pth").write_text("\n".join(depends))
    return home / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A project of somebody's, with packages of its own."""
    project = tmp_path / "project"
    for room in ROOMS:
        (project / room).mkdir(parents=True)
        (project / room / "__init__.py").write_text("MINE = True\n")
    return project


def test_the_wheel_holds_one_package_and_its_default_bundle(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        names = held.namelist()
    assert {re.sub(r"-.*", "", name.partition("/")[0]) for name in names} == {"secondlook"}
    assert any(re.fullmatch(r"secondlook/model/default/[^/]+/keys\.faiss", name) for name in names)
    assert "secondlook/service/static/index.html" in names
    assert not any("/benchmarks/" in name or "/tests/" in name for name in names)


def test_it_is_served_taught_and_rebuilt_in_a_folder_of_ones_own_packages(
    installed: Path,
    hostile: Path,
    tiny_bundle: Path,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(hostile))
    data = make_folder(tmp_path / "data" / "colours", per_class=20).parent
    bundles = copy_root(tiny_bundle, tmp_path / "bundles")
    indexing = (installed / "python", "-m", "secondlook", "index", "colours", "--data-root", data, "--bundles", bundles)
    indexed = subprocess.run(indexing, cwd=hostile, capture_output=True, text=True)
    assert indexed.returncode == 0, indexed.stderr

    server = serve(
        program=(str(installed / "secondlook"),), cwd=hostile, workers=2, bundles=bundles, data=data, admin_key=KEY
    )
    image = {"file": ("a.png", make_image("red", (50, 40), seed=7), "image/png")}
    taught = httpx.post(f"{server.url}/v1/entries", headers=ADMIN, files=image, data={"label": "new"}, timeout=30)
    assert taught.status_code == 201, taught.text
    said = httpx.post(f"{server.url}/v1/predict", files=image, timeout=30).json()
    assert said["predictions"][0]["label"] == "new"
    before = generation(server.url)
    body = {"dataset": "colours", "force": True}
    started = httpx.post(f"{server.url}/v1/admin/rebuild", headers=ADMIN, json=body, timeout=30)
    assert started.status_code == 202, started.text
    job = f"{server.url}{started.headers['location']}"
    until(lambda: httpx.get(job, headers=ADMIN).json()["state"] not in ("queued", "running"))
    ended = httpx.get(job, headers=ADMIN)
    assert ended.json()["state"] == "succeeded", ended.text
    until(lambda: generation(server.url) != before)


def test_the_package_called_model_stays_its_owners(installed: Path, hostile: Path) -> None:
    program = "import secondlook.client, model, service; assert model.MINE and service.MINE; print(secondlook.__file__)"
    told = subprocess.run((installed / "python", "-c", program), cwd=hostile, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert Path(told.stdout.strip()).is_relative_to(installed.parent)


def test_a_bundle_is_opened_in_python_in_such_a_folder(installed: Path, hostile: Path) -> None:
    """The default one, which lies in the wheel."""
    program = f"import secondlook; print(secondlook.open().predict({str(ROOT / 'docs/plane.png')!r}).label)"
    told = subprocess.run(
        (installed / "python", "-W", "error", "-c", program), cwd=hostile, capture_output=True, text=True
    )
    assert (told.returncode, told.stdout) == (0, "airplane\n"), told.stderr
