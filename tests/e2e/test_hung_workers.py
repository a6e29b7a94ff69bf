"""Workers that are stopped or hang, and what their clients see of it."""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from secondlook.service.processes.pulse import ASLEEP_S, SILENT_S
from tests.e2e.conftest import Server, until
from tests.e2e.hanging import Hangs
from tests.e2e.load import children
from tests.e2e.test_ending import ask_in_vain
from tests.e2e.test_workers import ask, scrapes

Serve = Callable[..., Server]
Figures = Callable[[str], None]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@contextmanager
def asking(url: str, count: int = 4) -> Iterator[Counter[str]]:
    """Clients that ask one after another, each time on a connection of its own; what came of it."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            try:
                outcomes[str(ask(url).status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1

    threads = [threading.Thread(target=ask_on) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        over.set()
        for thread in threads:
            thread.join()


def replaced(server: Server, pids: list[int]) -> bool:
    """Whether all workers answer, and one of them is new."""
    now = set(children(server.process.pid))
    return len(now) == len(pids) and now != set(pids) and next(scrapes(server.url, 1))["secondlook_workers"] == 2


def test_a_worker_that_is_stopped_is_replaced_and_not_called_ready(serve: Serve, root: Path, figures: Figures) -> None:
    server = serve(bundles=root, workers=2)
    pids = children(server.process.pid)
    with asking(server.url) as outcomes:
        until(lambda: outcomes["200"] > 8)
        os.kill(pids[0], signal.SIGSTOP)
        stopped = time.monotonic()
        until(lambda: not Path(f"/proc/{pids[0]}").exists())
        noticed = time.monotonic() - stopped
        page = next(scrapes(server.url, 1))
        assert page["secondlook_workers"] == 1
        assert page["secondlook_ready"] == 1  # the one that is left answers
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        until(lambda: replaced(server, pids))
        back = time.monotonic() - stopped
    figures(
        f"a worker of 2 stopped (SIGSTOP): ended after {noticed:.1f} s, replaced after {back:.1f} s; of "
        f"{sum(outcomes.values())} requests {sum(outcomes.values()) - outcomes['200']} failed: {dict(outcomes)}"
    )
    assert outcomes.keys() <= {"200", "ReadError", "RemoteProtocolError", "ConnectError"}, "one waited for ever"
    # Each of the clients had one connection to it at most.
    assert sum(outcomes.values()) - outcomes["200"] <= 8
    assert "gave no sign of life" in server.log.read_text()


@pytest.mark.parametrize("what", [pytest.param("loop", marks=pytest.mark.soak), "compute"])
def test_a_worker_that_hangs_is_replaced(
    serve: Serve, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    hangs = Hangs(tmp_path / "hangs", monkeypatch)
    server = serve(bundles=root, workers=2, request_timeout_s=1)
    pids = children(server.process.pid)
    end = hangs.begin(what)
    ask_in_vain(server.url, "/v1/model" if what == "loop" else "/v1/predict")
    until(lambda: len(set(children(server.process.pid)) & set(pids)) == 1)
    end()
    until(lambda: replaced(server, pids))
    assert ask(server.url).status_code == 200


@pytest.mark.soak
def test_after_the_machine_slept_nobody_is_replaced(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, workers=2)
    pids = children(server.process.pid)
    everyone = [server.process.pid, *pids]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(SILENT_S + ASLEEP_S)
    for pid in everyone:  # the parent first, which finds the others silent
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.7)
    assert ask(server.url).status_code == 200
    time.sleep(1)
    assert sorted(children(server.process.pid)) == sorted(pids)
    assert "no sign of life" not in server.log.read_text()
