"""A signal ends the server in time whatever hangs in it, and a second one at once."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from secondlook.service.processes.ending import GRACE_S
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.hanging import Hangs
from tests.e2e.load import children, rebuilding
from tests.e2e.test_faults import start_rebuild
from tests.e2e.test_server_limits import deaf, head
from tests.images_for_tests import make_folder, make_image

Serve = Callable[..., Server]
Figures = Callable[[str], None]
IMAGE = make_image("red")
DRAIN_S = 1.0


@pytest.fixture
def hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hangs:
    return Hangs(tmp_path / "hangs", monkeypatch)


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def ask_in_vain(url: str, path: str = "/v1/predict") -> None:
    """Begin a call that gets no answer, and leave it."""

    def asking() -> None:
        with suppress(httpx.HTTPError):
            if path == "/v1/predict":
                httpx.post(url + path, content=IMAGE, headers={"Content-Type": "image/png"}, timeout=60)
            else:
                httpx.get(url + path, timeout=60)

    threading.Thread(target=asking, daemon=True).start()


def ended(server: Server, drain_s: float = DRAIN_S) -> tuple[int, float]:
    """Status and seconds of a server that was told to end; some seconds more for a busy machine."""
    began = time.monotonic()
    return server.process.wait(drain_s + GRACE_S + 5), time.monotonic() - began


def seen(log: Path, text: str) -> bool:
    return text in log.read_text()


def long(*given: object) -> object:
    """A case that `make test` leaves out."""
    return pytest.param(*given, marks=pytest.mark.soak)


@pytest.fixture(params=["compute", "loop", "rebuild", *map(long, ("nothing", "disk", "sending", "deaf"))])
def busy(
    request: pytest.FixtureRequest, serve: Serve, hangs: Hangs, root: Path, tmp_path: Path
) -> Iterator[tuple[str, Server]]:
    """A server that is told to end in 1 s and 5 s more, and what it hangs at."""
    what = request.param
    if what == "rebuild":
        make_folder(tmp_path / "data" / "colours", per_class=2000)
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY, drain_timeout_s=DRAIN_S)
    if what == "compute":
        hangs.begin("compute")
        ask_in_vain(server.url)
        time.sleep(0.5)
    elif what == "disk":
        hangs.begin("disk")
        time.sleep(2.5)  # beyond the next look at CURRENT
    elif what == "loop":
        hangs.begin("loop")
        ask_in_vain(server.url, "/v1/model")
        time.sleep(0.5)
    elif what == "rebuild":
        start_rebuild(server, "colours")
        until(lambda: rebuilding(server.process.pid))
        for pid in rebuilding(server.process.pid):
            os.kill(pid, signal.SIGSTOP)
    if what == "deaf":
        with deaf(server):
            time.sleep(0.5)
            yield what, server
    elif what == "sending":
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as slow:
            slow.sendall(head() + IMAGE[:10])
            time.sleep(0.3)
            yield what, server
    else:
        yield what, server


def test_a_signal_ends_it_in_time(busy: tuple[str, Server], figures: Figures) -> None:
    what, server = busy
    started = children(server.process.pid)
    server.process.terminate()
    status, seconds = ended(server)
    figures(f"told to stop while it hangs at {what}: ended after {seconds:.1f} s with status {status}")
    assert status == (1 if what == "loop" else 0), server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.parametrize(
    ("what", "second"),
    [
        ("compute", signal.SIGTERM),
        ("loop", signal.SIGINT),
        long("compute", signal.SIGINT),
        long("loop", signal.SIGTERM),
    ],
)
def test_a_second_signal_ends_it_at_once(
    serve: Serve, hangs: Hangs, root: Path, what: str, second: signal.Signals
) -> None:
    server = serve(bundles=root, drain_timeout_s=600)
    hangs.begin(what)
    ask_in_vain(server.url, "/v1/model" if what == "loop" else "/v1/predict")
    time.sleep(0.5)
    server.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(1)
    server.process.send_signal(second)
    assert ended(server, 0)[0] == 128 + second
    assert seen(server.log, "a second signal")


def test_a_signal_that_is_sent_twice_at_once_is_one(serve: Serve, root: Path) -> None:
    server = serve(bundles=root)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as slow:
        slow.sendall(head() + IMAGE[:10])
        time.sleep(0.3)
        server.process.terminate()
        server.process.terminate()
        until(lambda: seen(server.log, "stopping"))
        slow.sendall(IMAGE[10:])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert ended(server)[0] == 0


@pytest.mark.parametrize("stopped", [1, long(2)])
def test_a_signal_ends_workers_that_do_not_listen(serve: Serve, root: Path, figures: Figures, stopped: int) -> None:
    server = serve(bundles=root, workers=2, drain_timeout_s=DRAIN_S)
    pids = children(server.process.pid)
    for pid in pids[:stopped]:
        os.kill(pid, signal.SIGSTOP)
    server.process.terminate()
    status, seconds = ended(server)
    figures(f"told to stop with {stopped} of 2 workers stopped: ended after {seconds:.1f} s with status {status}")
    assert status == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_second_signal_ends_workers_at_once(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, workers=2, drain_timeout_s=600)
    pids = children(server.process.pid)
    os.kill(pids[0], signal.SIGSTOP)
    server.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(1)
    server.process.terminate()
    assert ended(server, 0)[0] == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
