"""Several workers behind one port, as their user meets them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from secondlook.model.bundles.root import active_generation
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.load import children
from tests.e2e.test_switching import ADMIN, ASKED
from tests.images_for_tests import make_folder
from tests.memory_for_tests import mapped
from tests.service_for_tests import add_generation

Serve = Callable[..., Server]
RAW = {"Content-Type": "image/png"}


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def ask(url: str) -> httpx.Response:
    """On a connection of its own."""
    return httpx.post(f"{url}/v1/predict", content=ASKED, headers=RAW, timeout=30)


def scrapes(url: str, count: int = 8) -> Iterator[dict[str, float]]:
    """Pages of metrics, each asked for on a connection of its own: values by name and labels."""
    for _ in range(count):
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
            for sample in family.samples:
                name = " ".join((sample.name, *(value for _, value in sorted(sample.labels.items()))))
                assert name not in found, f"{name} is there twice"
                found[name] = sample.value
        yield found


def answering(client: httpx.Client, pids: list[int]) -> int:
    """Which of those processes has the other end of a client's connection."""
    stream = client.get("/livez").extensions["network_stream"]
    port, here = (stream.get_extra_info(name)[1] for name in ("server_addr", "client_addr"))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(end.rpartition(":")[2], 16) for end in fields[1:3]] == [port, here]:
            for pid in pids:
                held = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
                if f"socket:[{fields[9]}]" in held:
                    return pid
    raise AssertionError("nobody has it")


@contextmanager
def to_each(server: Server) -> Iterator[list[httpx.Client]]:
    """A connection to each worker."""
    pids = children(server.process.pid)
    found: dict[int, httpx.Client] = {}
    with ExitStack() as open_ones:
        while len(found) < len(pids):
            client = open_ones.enter_context(httpx.Client(base_url=server.url, headers=ADMIN, timeout=30))
            found.setdefault(answering(client, pids), client)
        yield list(found.values())


def test_they_count_together_share_the_keys_and_stop_clean(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, workers=2, max_queue=10)
    pids = children(server.process.pid)
    assert len(pids) == 2
    with to_each(server) as clients:
        for client in clients:
            for _ in range(5):
                assert client.post("/v1/predict", content=ASKED, headers=RAW).status_code == 200
            assert client.get("/nothing").status_code == 404
    for page in scrapes(server.url):
        assert page["secondlook_images_total answered"] == 10
        assert page["secondlook_requests_total POST /v1/predict 200"] == 10
        assert page["secondlook_top_probability_count"] == page["secondlook_batch_images_sum"] == 10
        assert page["secondlook_rejected_total not-found"] == 2
        assert page["secondlook_requests_in_flight"] == 1  # the scrape
        assert page["secondlook_workers"] == 2
        assert page["secondlook_admitted_images_limit"] == 10
        assert page["secondlook_ready"] == 1
        assert page["secondlook_entries"] == 60
        assert page["secondlook_rebuild_running"] == page["secondlook_admitted_images"] == 0
        assert page["process_resident_memory_bytes"] > 0
    for pid in pids:
        keys = mapped(pid, "keys.faiss")
        assert keys["Rss"] > 0
        assert keys["Anonymous"] == 0
    host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
    command = [sys.executable, "-m", "secondlook", "serve", "--workers", "2", "--port", str(port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    why = f"{host}:{port} is taken by another program: end that, or choose another port with --port"
    assert second.stderr == f"Error: {why}\n"
    with socket.create_connection((host, port)) as slow:
        head = (
            "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            f"Content-Length: {len(ASKED)}\r\n\r\n"
        )
        slow.sendall(head.encode() + ASKED[:10])
        until(lambda: next(scrapes(server.url))["secondlook_admitted_images"] == 1)
        server.process.terminate()
        until(lambda: "stopping" in server.log.read_text())
        slow.sendall(ASKED[10:])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert server.process.wait(30) == 0
    assert " ERROR " not in server.log.read_text()


def test_a_rebuild_is_seen_and_cancelled_through_any_and_a_switch_reaches_all(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    make_folder(tmp_path / "data" / "colours", per_class=2000)
    server = serve(bundles=root, workers=2, data=tmp_path / "data", admin_key=KEY)
    with to_each(server) as (first, second):
        job = first.post("/v1/admin/rebuild", json={"dataset": "colours"}).json()
        where = f"/v1/admin/jobs/{job['id']}"
        refused = second.post("/v1/admin/rebuild", json={"dataset": "colours"})
        assert refused.status_code == 409
        assert job["id"] in refused.json()["detail"]
        until(lambda: second.get(where).json()["stage"] != "start")
        assert second.get(where).json()["state"] == "running"
        # A worker's state is up to a second old on a page that the other one writes.
        until(lambda: all(page["secondlook_rebuild_running"] == 1 for page in scrapes(server.url, 4)))
        cancelled = second.delete(where)
        assert cancelled.json()["state"] == "cancelled", cancelled.text
        assert first.get(where).json() == second.get(where).json() == cancelled.json()
        assert first.get(f"{where}/log").text == second.get(f"{where}/log").text != ""
        assert [one["id"] for one in second.get("/v1/admin/jobs").json()] == [job["id"]]
        new = add_generation(root)
        assert second.post(f"/v1/admin/generations/{new}/activate").status_code == 200
        for client in (second, first):
            until(lambda client=client: client.get("/v1/model").json()["generation"] == new)  # type: ignore[misc]
            answer = client.post("/v1/predict", content=ASKED, headers=RAW).json()
            assert answer["generation"] == new == active_generation(root)
        assert next(scrapes(server.url))["secondlook_rebuilds_total cancelled"] == 1


def test_a_worker_that_is_killed_comes_back_and_none_outlives_the_parent(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, workers=2)
    pids = children(server.process.pid)
    stop = threading.Event()
    answered, failed = [0] * 4, [0] * 4

    def asking(i: int) -> None:
        while not stop.is_set():
            try:
                assert ask(server.url).status_code == 200
                answered[i] += 1
            except httpx.TransportError:
                failed[i] += 1

    threads = [threading.Thread(target=asking, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: min(answered) > 2)
        os.kill(pids[0], signal.SIGKILL)
        killed = time.monotonic()
        before = sum(answered)
        until(lambda: len(set(children(server.process.pid)) - set(pids)) == 1)
        until(lambda: next(scrapes(server.url))["secondlook_workers"] == 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(answered) > before, f"nobody answered for {time.monotonic() - killed:.1f} s"
    assert max(failed) <= 1, "more failed than what the worker had in its hands"
    assert "worker 1 ended with status -9" in server.log.read_text() or "worker 2 ended" in server.log.read_text()
    time.sleep(1.2)  # each tells the others of its state once a second
    for page in scrapes(server.url, 4):
        assert page["secondlook_requests_in_flight"] == 1, "what the killed one had in its hands is counted for ever"
        assert page["secondlook_images_total answered"] >= sum(answered), "what the killed one counted is lost"
    pids = children(server.process.pid)
    server.process.kill()
    server.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_damaged_bundle_is_one_clear_line(root: Path) -> None:
    keys = next(root.glob("*/keys.faiss"))
    keys.write_bytes(keys.read_bytes()[:-1])
    command = [sys.executable, "-m", "secondlook", "serve", "--bundles", str(root), "--port", "0", "--workers", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "keys.faiss has" in ended.stderr
