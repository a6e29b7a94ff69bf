"""A real server process, started and stopped as a user would."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.balancer import Cluster, balanced
from tests.networks_for_tests import colour_backbone, written

KEY = "a key for tests"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a test picture, to whichever page is allowed one.
    "--use-fake-device-for-media-stream",
]
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note what was measured, for the end of the run."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if noted := config.stash.get(FIGURES, []):
        terminalreporter.section("measured")
        for line in noted:
            terminalreporter.line(line)


@dataclass
class Server:
    """A running ``secondlook serve``."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with some settings; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(
        port: int = 0,
        wrapper: tuple[str, ...] = (),
        program: tuple[str, ...] = (sys.executable, "-m", "secondlook"),
        cwd: Path | None = None,
        data_home: Path = tmp_path / "data-home",
        **settings: object,
    ) -> Server:
        log = tmp_path / f"server{len(started)}.log"
        own = {f"SECONDLOOK_{name.upper()}": str(value) for name, value in settings.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
        kept["XDG_DATA_HOME"] = str(data_home)
        with log.open("w") as file:
            process = subprocess.Popen(
                [*wrapper, *program, "serve", "--port", str(port)],
                cwd=cwd,
                env=kept | own,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if ready := re.search(r"ready: (http://(?:127\.0\.0\.1|\[::1\]):\d+)/", log.read_text()):
                return Server(process, ready.group(1), log)
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {log.read_text()}")

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def balance() -> Iterator[Callable[..., Cluster]]:
    """Start the cluster's balancer before some servers, the primary first."""
    with ExitStack() as started:
        yield lambda servers, *wrapper: started.enter_context(balanced(servers, *wrapper))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def generation(url: str) -> str:
    """Which generation answers."""
    return str(httpx.get(f"{url}/v1/model").json()["generation"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system in memory of its own: an empty one per call, or with `remount` that of the call before."""
    where = tmp_path / "disk"
    where.mkdir()

    def unmount() -> None:
        # None may stay: pytest could not remove the folder then, runs later, and would end red over it.
        while where.is_mount():
            subprocess.run(["umount", "-l", str(where)], capture_output=True, check=True)

    def mount(options: str) -> Path:
        if "remount" not in options.split(","):
            unmount()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a file system is not permitted here")
        return where

    yield mount
    unmount()


def fill(disk: Path) -> Path:
    """Write until the disk is full."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    return ballast


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. While it is open, no other event loop can run in this thread: so it is closed after a file."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page of a server; in the end, nothing went wrong in it and it asked no other address."""
    contexts, wrong = [], []

    def open_page(server: Server, view: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # A call that is refused or reaches nobody is logged by the browser itself, and is what some tests are about.
        page.on(
            "console",
            lambda told: (
                wrong.append(told.text)
                if told.type == "error" and not told.text.startswith("Failed to load resource")
                else None
            ),
        )
        page.on(
            "request", lambda asked: None if asked.url.startswith((server.url, "blob:")) else wrong.append(asked.url)
        )
        page.goto(f"{server.url}/{view}")
        page.locator("#model strong").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells colours in a moment, and has no head."""
    return written(colour_backbone(), tmp_path_factory.mktemp("networks"), "backbone")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    return kept | {"XDG_DATA_HOME": str(tmp_path / "home")}
