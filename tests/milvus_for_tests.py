"""A real Milvus server (standalone 2.3.5, as its Python package brings it), which tests may stop, kill and restart."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from secondlook.model.stores.milvus_server import Milvus, MilvusSettings

BOOT_SECONDS = 120.0
SESSION_SECONDS = 10
"""After a kill, the new process waits until the dead one's sessions are over, by default for half a minute; and one
that is paused for longer gives up."""
PREPARE = """
import sys
from milvus import MilvusServer, MilvusServerConfig
folder, port, secured, session = sys.argv[1:]
config = MilvusServerConfig(data_dir=folder)
config.set("proxy_port", int(port))
config.set("authorization_enabled", secured == "1")
config.extra_configs["common.session.ttl"] = int(session)
server = MilvusServer(config, wait_for_started=False)
server.start()
server.stop()
print(server.get_milvus_executable_path())
"""
"""Has the package write its files. From then on the server starts here: the package's own start refuses a port on which
a killed server's connections still linger."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MilvusProcess:
    """One at a time on a machine, since its etcd takes the ports 2379 and 2380: another waits for its turn."""

    def __init__(self, folder: Path, *, secured: bool = False) -> None:
        self._turn: int | None = None
        self.port, self._health = _free_port(), _free_port()
        self._take_turn()
        told = [str(folder), str(self.port), str(int(secured)), str(SESSION_SECONDS)]
        made = subprocess.run([sys.executable, "-c", PREPARE, *told], check=True, capture_output=True, text=True)
        program = made.stdout.strip()
        self._folder = folder
        self._command = [program, "run", "standalone"]
        self._environment = os.environ | {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health),
            "MILVUS_RUN_DIR": str(folder / "run"),
            "LD_LIBRARY_PATH": str(Path(program).parent),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        self._take_turn()
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it says that it is well."""
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            try:
                if httpx.get(f"http://127.0.0.1:{self._health}/healthz", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError("Milvus did not start")

    def kill(self) -> None:
        """It ignores SIGTERM now and then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None

    def _take_turn(self) -> None:
        if self._turn is None:
            self._turn = os.open(Path(tempfile.gettempdir()) / "secondlook-milvus.lock", os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(self._turn, fcntl.LOCK_EX)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def settings(self, **changed: Any) -> MilvusSettings:
        return MilvusSettings(address=self.address, **changed)

    def connect(self, **changed: Any) -> Milvus:
        return Milvus(self.settings(**changed))
