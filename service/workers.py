"""Several processes behind one port, for processors with many cores: a parent that answers nothing, and its workers.

Each worker is a server like the one that runs alone, with its share of the queue and of the threads. All listen on the
port (SO_REUSEPORT), and the kernel gives each connection to one of them. The keys of a generation are mapped, so that
they are in memory once; metrics are counted together; a rebuild is the root's, whoever runs it.

The parent starts one worker first, so that what is wrong is said once, then the others. It starts anew those that die,
passes signals on, and waits until all are done. What a worker is to do comes on its standard input, which stays open:
its end is the parent's, whatever that died of.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

from service import logs
from service.errors import ServiceError
from service.settings import LEAST_DECODE_BYTES, PREFIX, Settings

logger = logging.getLogger(__name__)

# -P: a folder called like one of ours, where the server was started, must not be imported.
COMMAND = (sys.executable, "-P", "-m", "secondlook", "serve", "--worker")
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder that all workers count in."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Before a worker that died is started anew; twice as long each time, until one has run for SOUND_S."""
SOUND_S = 10.0
ORPHAN_S = 30.0
"""How long a worker without a parent may take to end beyond the time of its running requests."""


class ListenError(ServiceError):
    """The address cannot be listened on."""


def run(settings: Settings) -> None:
    """Serve with several workers until a signal stops them.

    Raises:
        ListenError: the address cannot be listened on.
        SystemExit: no worker can start (it has said why), or one did not stop as it should.
    """
    logging.config.dictConfig(logs.config(settings.log))
    if sys.platform != "linux":
        raise ServiceError("several workers need Linux: set SECONDLOOK_WORKERS to 1")
    reserved = _reserve(settings.host, settings.port)
    try:
        port = reserved[0].getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="secondlook-metrics-") as folder:
            status = asyncio.run(_Parent(share(settings, port), folder).run())
    finally:
        for held in reserved:
            held.close()
    if status:
        sys.exit(status)


def share(settings: Settings, port: int) -> Settings:
    """What each worker is told: its part of what is bounded.

    Raises:
        ServiceError: too little memory to divide.
    """
    count, cores = settings.workers, os.cpu_count() or 1
    if settings.decode_bytes < (least := count * LEAST_DECODE_BYTES):
        raise ServiceError(f"{count} workers need {PREFIX}MAX_DECODE_BYTES of at least {least:,}")
    return settings.model_copy(
        update={
            "port": port,
            "threads": settings.threads or max(1, cores // count),
            "max_queue": max(1, settings.max_queue // count),
            "max_queue_bytes": max(1, settings.max_queue_bytes // count),
            "max_decode_bytes": settings.decode_bytes // count,
        }
    )


def work() -> None:
    """Be a worker, as standard input says.

    Raises:
        BundleError, KeysError, SystemExit: as ``serve.run``.
    """
    told = b""
    while not told.endswith(b"\n") and (more := os.read(0, 1 << 16)):
        told += more
    try:
        settings = Settings(**json.loads(told))
    except ValueError as error:
        raise ServiceError("a worker is started by secondlook serve --workers, and not by hand") from error
    is_orphan = threading.Event()
    threading.Thread(target=_end_with_parent, args=(settings, is_orphan), name="parent", daemon=True).start()
    from service.serve import run as serve

    try:
        listening = [_bind(*address, is_shared=True) for address in _addresses(settings.host, settings.port)]
        serve(settings, listening, _tell_parent)
    finally:
        if is_orphan.is_set():
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)


def _tell_parent(address: str) -> None:
    os.write(1, address.encode() + b"\n")


def _end_with_parent(settings: Settings, is_orphan: threading.Event) -> None:
    # Nothing more is sent: it returns once the parent has ended.
    while os.read(0, 1):
        pass
    is_orphan.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(settings.drain_timeout_s + ORPHAN_S)
    os._exit(1)


Address = tuple[int, Any]
"""Family, and what sockets of that family call an address."""


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _bind(family: int, address: Any, *, is_shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep the port for the workers, and take no connections.

    Raises:
        ListenError: another program has it, or this one may not have it.
    """
    reserved: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            # Not shared at first: or else a second server would take a part of the first one's connections.
            with _bind(family, (address[0], port, *address[2:]), is_shared=False) as alone:
                port = alone.getsockname()[1]
            reserved.append(_bind(family, (address[0], port, *address[2:]), is_shared=True))
    except OSError as error:
        for held in reserved:
            held.close()
        raise ListenError(f"{host} port {port} cannot be listened on: {error.strerror}") from error
    return reserved


class _Parent:
    """Keeps workers running."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self._settings, self._folder = settings, folder
        key = settings.admin_key
        told = settings.model_dump(mode="json") | {"admin_key": key.get_secret_value() if key else None}
        if settings.milvus is not None:
            told["milvus"] = told["milvus"] | {"token": settings.milvus.token.get_secret_value()}
        self._told = json.dumps(told).encode() + b"\n"
        # FAISS searches with OpenMP's threads, and would take all cores in each worker.
        self._environment = {"OMP_NUM_THREADS": str(settings.threads)} | os.environ | {METRICS_FOLDER: folder}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._failing: set[int] = set()
        """Those that ended before they were ready when they were started last."""
        self._been_ready: set[int] = set()
        self._first = asyncio.Event()
        """The first is ready, or never will be."""
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Until a signal, or until no worker starts any more; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        async with asyncio.TaskGroup() as workers:
            workers.create_task(self._keep(0))
            await self._first.wait()
            for slot in range(1, self._settings.workers):
                workers.create_task(self._keep(slot))
        return self._status

    def _stop(self, number: signal.Signals) -> None:
        """Pass a signal on; a second Ctrl-C means the same to them as to a server alone."""
        self._stopping.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, slot: int) -> None:
        """Have one worker run until all shall stop."""
        wait = FIRST_WAIT_S
        while not self._stopping.is_set():
            began = time.monotonic()
            is_ready, status = await self._live(slot)
            if self._stopping.is_set():
                if is_ready and status != 0:
                    logger.error("worker %d ended with status %d instead of stopping", slot + 1, status)
                    self._status = 1
                break
            if is_ready:
                self._failing.discard(slot)
            else:
                self._failing.add(slot)
            if not self._first.is_set():  # it has said what is wrong
                self._end(status)
                break
            if len(self._failing) == self._settings.workers:
                logger.critical("no worker can be started any more: the server ends")
                self._end(1)
                break
            if time.monotonic() - began > SOUND_S:
                wait = FIRST_WAIT_S
            logger.error("worker %d ended with status %d: it is started anew in %g s", slot + 1, status, wait)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        self._first.set()

    def _end(self, status: int) -> None:
        self._status = status if status > 0 else 1
        self._stop(signal.SIGTERM)

    async def _live(self, slot: int) -> tuple[bool, int]:
        """One worker's life: whether it was ready, and the status it ended with."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            # A session of its own, so that Ctrl-C reaches the parent alone, which passes it on.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._processes[slot] = process
        if self._stopping.is_set():  # the signal came while it was being started
            process.terminate()
        process.stdin.write(self._told)
        if address := (await process.stdout.readline()).decode().strip():
            self._ready(slot, address)
        status = await process.wait()
        del self._processes[slot]
        self._forget(process.pid)
        return bool(address), status

    def _ready(self, slot: int, address: str) -> None:
        self._failing.discard(slot)
        self._first.set()
        if slot in self._been_ready:
            logger.info("worker %d answers again", slot + 1)
            return
        self._been_ready.add(slot)
        if len(self._been_ready) == self._settings.workers:
            logger.info("secondlook is ready: %s (%d workers; stop it with Ctrl-C)", address, self._settings.workers)

    def _forget(self, pid: int) -> None:
        """Remove a dead worker's states from the metrics; what it counted stays."""
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
