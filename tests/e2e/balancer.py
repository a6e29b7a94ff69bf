"""The cluster's balancer in tests: nginx with the configuration of the Compose file, before servers of the test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

CLUSTER = Path(__file__).parents[2] / "docker/cluster"
NOBODY = 65534


@dataclass
class Cluster:
    """A balancer, its servers (the primary first) and its log."""

    url: str
    servers: list[Server]
    log: Path

    def lines(self) -> list[dict[str, str]]:
        """Its access log."""
        found = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in found]

    def answers(self) -> bool:
        """Whether it has started."""
        try:
            return httpx.get(f"{self.url}/livez").status_code == 200
        except httpx.ConnectError:
            return False

    def answering(self, method: str, path: str, **options: Any) -> set[str]:
        """Which servers answer a call that is made a dozen times, as the log tells."""
        before = len(self.lines())
        for _ in range(12):
            httpx.request(method, f"{self.url}{path}", **options)
        deadline = time.monotonic() + 5  # written once the answer has been sent
        while len(self.lines()) < before + 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        return {line["servers"] for line in self.lines()[before:]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def addresses(servers: list[Server]) -> list[str]:
    return [urlsplit(server.url).netloc for server in servers]


@contextmanager
def balanced(servers: list[Server], *wrapper: str) -> Iterator[Cluster]:
    """nginx as nobody, or as the wrapper has it; of nginx.conf only the port is changed."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("there is no nginx: apt-get install nginx-light")
    # Not below pytest's folder, which nobody but its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="balancer-"))
    prefix, log, port = folder / "prefix", folder / "log", free_port()
    prefix.mkdir()
    log.touch()
    conf = (CLUSTER / "nginx.conf").read_text()
    assert conf.count("listen 8080;") == 1
    (folder / "nginx.conf").write_text(conf.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
    (folder / "servers.conf").write_text(servers_conf(addresses(servers)))
    if is_root := os.geteuid() == 0:
        for path in (folder, prefix, log):
            os.chown(path, NOBODY, NOBODY)
    command = [*wrapper, nginx, "-e", "stderr", "-p", f"{prefix}/", "-c", f"{folder}/nginx.conf"]
    with log.open("a") as file:  # nginx opens it once more
        process = subprocess.Popen(
            [part.replace("PREFIX", str(prefix)) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            user=NOBODY if is_root and not wrapper else None,
            extra_groups=[] if is_root else None,
        )
    cluster = Cluster(f"http://127.0.0.1:{port}", servers, log)
    try:
        deadline = time.monotonic() + 10
        while not cluster.answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield cluster
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def servers_conf(addresses: list[str]) -> str:
    """The project's own, its names replaced by addresses: they need no resolver, and no nginx that has one."""
    text = (CLUSTER / "servers.conf").read_text()
    (named,) = (line for line in text.splitlines() if "server replica:8000" in line)
    (resolver,) = (line for line in text.splitlines() if line.startswith("resolver "))
    text = text.replace(resolver, "").replace(" resolve", "").replace("primary:8000", addresses[0])
    replicas = [named.replace(" resolve", "").replace("replica:8000", address) for address in addresses[1:]]
    return text.replace(named.replace(" resolve", ""), "\n".join(replicas))
