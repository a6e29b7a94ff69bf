"""The server as its users meet it: a process, sockets, real images."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secondlook.model.bundles.default import default_root
from secondlook.model.networks.preprocess import CIFAR
from tests.e2e.conftest import KEY, Server, generation, until
from tests.images_for_tests import COLOURS, make_folder, make_image

Serve = Callable[..., Server]


def test_the_default_bundle_answers_without_any_setting(serve: Serve) -> None:
    server = serve()
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    model = httpx.get(f"{server.url}/v1/model").json()
    assert model["classes"][:2] == ["airplane", "automobile"]
    files = [("file", (f"{c}.jpg", make_image(c, (640, 480), "JPEG"))) for c in COLOURS]
    reply = httpx.post(f"{server.url}/v1/predict?neighbors=3&top=10", files=files, timeout=30)
    assert reply.status_code == 200
    body = reply.json()
    assert body["generation"] == model["generation"]
    for prediction in body["predictions"]:
        assert len(prediction["neighbors"]) == 3
        assert sum(one["probability"] for one in prediction["top"]) == pytest.approx(1, abs=1e-4)
        for one in prediction["top"]:
            mixed = (1 - body["lam"]) * one["network"] + body["lam"] * one["cache"]
            assert one["probability"] == pytest.approx(mixed, abs=1e-4)
    assert server.stop() == 0


def test_another_engine_answers_the_same(serve: Serve) -> None:
    pytest.importorskip("openvino")
    files = [("file", (f"{c}.png", make_image(c, (64, 64), "PNG"))) for c in COLOURS]
    told = []
    for engine in ("onnxruntime", "openvino-f32"):
        server = serve(engine=engine)
        model = httpx.get(f"{server.url}/v1/model").json()
        assert model["engine"].startswith(engine.removesuffix("-f32")), model["engine"]
        assert model["engine_why"]
        told.append(httpx.post(f"{server.url}/v1/predict?top=10", files=files, timeout=30).json()["predictions"])
        assert server.stop() == 0
    for one, other in zip(*told, strict=True):
        assert one["label"] == other["label"]
        for ours, theirs in zip(one["top"], other["top"], strict=True):
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-3)


def test_real_test_images_are_mostly_right(serve: Serve, data_root: Path) -> None:
    import io

    from PIL import Image

    from secondlook.indexer.datasets.datasets import load

    server, test = serve(), load("cifar10", "test", data_root)
    right = {"mixed": 0, "network": 0, "cache": 0}
    for first in range(0, 500, 50):
        files = []
        for i in range(first, first + 50):
            buffer = io.BytesIO()
            Image.fromarray(test.read(i, CIFAR.geometry)).save(buffer, "PNG")
            files.append(("file", (f"{i}.png", buffer.getvalue())))
        answers = httpx.post(f"{server.url}/v1/predict", files=files, timeout=60).json()["predictions"]
        for i, answer in enumerate(answers, start=first):
            truth = test.classes[test.labels[i]]
            right["mixed"] += answer["label"] == truth
            right["network"] += answer["network"]["label"] == truth
            right["cache"] += answer["cache"]["label"] == truth
    assert min(right.values()) >= 0.87 * 500, right


def test_a_rebuild_switches_generations_while_questions_are_answered(
    serve: Serve, tiny_bundle: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    make_folder(tmp_path / "data" / "colours", per_class=30)
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY)
    before = generation(server.url)
    headers = {"Authorization": f"Bearer {KEY}"}
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                reply = client.post(f"{server.url}/v1/predict", files={"file": ("a.png", make_image("red"))})
                seen.append((reply.status_code, reply.json().get("generation", reply.text)))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        started = httpx.post(f"{server.url}/v1/admin/rebuild", headers=headers, json={"dataset": "colours"})
        assert started.status_code == 202
        job = f"{server.url}{started.headers['Location']}"
        assert httpx.post(f"{server.url}/v1/admin/rebuild", headers=headers, json={}).status_code == 409
        until(lambda: httpx.get(job, headers=headers).json()["state"] != "running", 120)
        result = httpx.get(job, headers=headers).json()
        assert result["state"] == "succeeded", (result, server.log.read_text())
        until(lambda: seen and seen[-1][1] == result["generation"])
    finally:
        stop.set()
        asking.join()
    assert {status for status, _ in seen} == {200}
    assert list(dict.fromkeys(named for _, named in seen)) == [before, result["generation"]]
    back = httpx.post(f"{server.url}/v1/admin/generations/{before}/activate", headers=headers)
    assert back.status_code == 200
    assert generation(server.url) == before
    assert (root / "CURRENT").read_text().strip() == before


def test_two_servers_on_one_root_follow_each_other(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    folder = make_folder(tmp_path / "data" / "colours", per_class=30)
    first, second = serve(bundles=root), serve(bundles=root)
    command = [sys.executable, "-m", "secondlook", "index", str(folder), "--bundles", str(root)]
    new = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    for server in (first, second):
        until(lambda server=server: generation(server.url) == new)  # type: ignore[misc]


def test_an_empty_root_is_seeded_with_the_default_bundle(serve: Serve, tmp_path: Path) -> None:
    server = serve(bundles=tmp_path / "new" / "bundles")
    assert generation(server.url) == (default_root() / "CURRENT").read_text().strip()
    assert generation(server.url) == (tmp_path / "new" / "bundles" / "CURRENT").read_text().strip()


def test_a_damaged_bundle_is_one_clear_line(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    keys = next(root.glob("*/keys.faiss"))
    keys.write_bytes(keys.read_bytes()[:-1])
    command = [sys.executable, "-m", "secondlook", "serve", "--bundles", str(root), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "keys.faiss has" in ended.stderr


def test_serving_does_not_import_torch(tiny_bundle: Path) -> None:
    code = (
        "import sys, pathlib, secondlook.service.processes.serve, secondlook.commands.index\n"
        "from secondlook.service.app import create_app; from secondlook.service.settings import Settings\n"
        "from secondlook.service.generations.opening import open_predictor\n"
        f"settings = Settings(bundles=pathlib.Path({str(tiny_bundle)!r}))\n"
        "create_app(settings, (), predictor=open_predictor(settings))\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
