"""``secondlook start`` as a person types it, for tests."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import until

READY = re.compile(r"ready: (http://127\.0\.0\.1:\d+)/#key=(\S+)")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "secondlook", "start", *map(str, arguments)]


def report(environment: dict[str, str], *arguments: object) -> Any:
    """What is reported of photos, and nothing is served."""
    ended = subprocess.run(
        command(*arguments, "--no-serve", "--json"), env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@contextmanager
def started(
    environment: dict[str, str], *arguments: object, end: signal.Signals = signal.SIGINT
) -> Iterator[httpx.Client]:
    """A client of what is served, with the key of its link; in the end the server is sent that signal."""
    log = Path(environment["XDG_DATA_HOME"]).parent / "start.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command(*arguments, "--port", 0), env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: READY.search(log.read_text()) or process.poll() is not None, 240)
        ready = READY.search(log.read_text())
        assert ready is not None, log.read_text()
        with httpx.Client(base_url=ready[1], headers={"Authorization": f"Bearer {ready[2]}"}, timeout=60) as client:
            yield client
        process.send_signal(end)
        assert process.wait(60) == (-end if end == signal.SIGKILL else 0), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def label(client: httpx.Client, image: bytes) -> str:
    return str(client.post("/v1/predict", files={"file": image}).json()["predictions"][0]["label"])
