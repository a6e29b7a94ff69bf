"""Several processes behind one port, for processors with many cores: a parent that answers nothing, and its workers.

Each worker is a server like the one that runs alone, with its share of the queue and of the threads. All listen on the
port (SO_REUSEPORT), and the kernel gives each connection to one of them. The keys of a generation are mapped, so that
they are in memory once; metrics are counted together; a rebuild is the root's, whoever runs it.

The parent starts one worker first, so that what is wrong is said once, then the others. It starts anew those that die,
and ends those that give no sign of life (``pulse``). It passes a signal on, waits until all are done, and ends
those that are not when their time is over, or at a second signal. What a worker is to do comes on its standard input,
which stays open: its end is the parent's, whatever that died of. On its standard output it says its address, once it
answers, and then its pulse.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from prometheus_client.multiprocess import mark_process_dead

from secondlook.service import logs
from secondlook.service.errors import ServiceError
from secondlook.service.http.hosts import tell_at_start
from secondlook.service.processes.ending import EARLIER_S, GRACE_S, SAME_S
from secondlook.service.processes.home import announce, at_home
from secondlook.service.processes.listening import bind, close, reserve
from secondlook.service.processes.pulse import BEAT, BEAT_S, SILENT_S, Pulse, Watched
from secondlook.service.settings import LEAST_DECODE_BYTES, METRICS_FOLDER, PREFIX, Settings

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Before a worker that died is started anew; twice as long each time, until one has run for SOUND_S."""
SOUND_S = 10.0
LATER_S = 0.25
"""By so much longer than a worker, which ends itself by force, the parent waits for it to end."""


def run(
    settings: Settings,
    program: Sequence[str],
    reserved: list[socket.socket] | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve with several workers until a signal stops them; ``program`` is the command line that starts ``secondlook``.

    On the port that is ``reserved``, where it is, telling ``ready`` the address once all of them answer. Where it is
    not, bundles may be in the user's home (``at_home``).

    Raises:
        BundleError: what is in the user's home is damaged.
        ListenError: the address cannot be listened on.
        SystemExit: no worker can start (it has said why), or one did not stop as it should.
    """
    logging.config.dictConfig(logs.config(settings.log))
    is_home = reserved is None
    reserved = reserved or reserve_port(settings)
    try:
        if is_home:
            tell_at_start(settings)
            settings, shows_key = at_home(settings)
            ready = partial(announce, settings, shows_key=shows_key)
        port = reserved[0].getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="secondlook-metrics-") as folder:
            parent = _Parent(share(settings, port), program, folder, ready or partial(announce, settings))
            status = asyncio.run(parent.run())
    finally:
        close(reserved)
    if status:
        sys.exit(status)


def reserve_port(settings: Settings) -> list[socket.socket]:
    """Sockets that keep the port for workers, and take no connections.

    Raises:
        ServiceError: this system has no workers. ListenError: the address cannot be listened on.
    """
    if sys.platform != "linux":
        raise ServiceError("several workers need Linux: set SECONDLOOK_WORKERS to 1")
    return reserve(settings.host, settings.port)


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


def work(program: Sequence[str]) -> None:
    """Be a worker, as standard input says.

    Raises:
        BundleError, KeysError, SystemExit: as ``serve.run``.
    """
    tells, told = _own_pipes()
    sent = b""
    while not sent.endswith(b"\n") and (more := os.read(told, 1 << 16)):
        sent += more
    try:
        settings = Settings(**json.loads(sent))
    except ValueError as error:
        raise ServiceError("a worker is started by secondlook serve --workers, and not by hand") from error
    is_orphan = threading.Event()
    threading.Thread(target=_end_with_parent, args=(told, is_orphan), name="parent", daemon=True).start()
    pulse = Pulse(tells)
    from secondlook.service.processes.serve import run as serve

    try:
        listening = bind(settings.host, settings.port, is_shared=True)
        serve(settings, program, listening, partial(_tell_parent, tells), pulse)
    finally:
        if is_orphan.is_set():
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)


def _own_pipes() -> tuple[int, int]:
    """The pipes to and from the parent, as descriptors that no process inherits which is started here.

    Whoever had them would have the parent wait for its end, or this one for the parent's.
    """
    tells, told = os.dup(1), os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return tells, told


def _tell_parent(tells: int, address: str) -> None:
    os.write(tells, address.encode() + b"\n")


def _end_with_parent(told: int, is_orphan: threading.Event) -> None:
    # Nothing more is sent: it returns once the parent has ended.
    while os.read(told, 1):
        pass
    is_orphan.set()
    os.kill(os.getpid(), signal.SIGTERM)


class _Parent:
    """Keeps workers running."""

    def __init__(self, settings: Settings, program: Sequence[str], folder: str, ready: Callable[[str], None]) -> None:
        self._settings, self._program, self._folder, self._tell = settings, program, folder, ready
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
        self._answering: set[int] = set()
        """Those that are ready now."""
        self._first = asyncio.Event()
        """The first is ready, or never will be."""
        self._stopping = asyncio.Event()
        self._stopped_at = 0.0
        self._pulses = Watched()
        self._status = 0

    async def run(self) -> int:
        """Until a signal, or until no worker starts any more; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        watching = loop.create_task(self._watch())
        async with asyncio.TaskGroup() as workers:
            workers.create_task(self._keep(0))
            await self._first.wait()
            for slot in range(1, self._settings.workers):
                workers.create_task(self._keep(slot))
        watching.cancel()
        return self._status

    def _stop(self, number: signal.Signals) -> None:
        """Pass a signal on; at a second one, end all of them."""
        now = time.monotonic()
        if not self._stopping.is_set():
            self._stopping.set()
            self._stopped_at = now
            within = self._settings.drain_timeout_s + GRACE_S - EARLIER_S + LATER_S
            asyncio.get_running_loop().call_later(within, self._kill_all, "did not end in time", 1)
        elif now - self._stopped_at > SAME_S:
            self._status = 128 + number
            asyncio.get_running_loop().call_later(LATER_S, self._kill_all, "did not end at once", self._status)
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _kill_all(self, why: str, status: int) -> None:
        for slot in list(self._processes):
            logger.error("worker %d %s: it is ended by force", slot + 1, why)
            self._kill(slot)
            self._status = status

    def _kill(self, slot: int) -> None:
        with suppress(ProcessLookupError):
            self._processes[slot].kill()

    async def _watch(self) -> None:
        """End workers that hang, which are started anew then."""
        while not self._stopping.is_set():
            await asyncio.sleep(BEAT_S)
            missing = self._settings.workers - len(self._answering)
            for slot in self._pulses.silent(is_one_missing=missing > 0):
                logger.error("worker %d gave no sign of life for %g s: it is ended by force", slot + 1, SILENT_S)
                self._pulses.forget(slot)
                self._kill(slot)

    async def _keep(self, slot: int) -> None:
        """Have one worker run until all shall stop."""
        wait = FIRST_WAIT_S
        while not self._stopping.is_set():
            began = time.monotonic()
            is_ready, status = await self._live(slot)
            if self._stopping.is_set():
                if is_ready and status != 0:
                    logger.error("worker %d ended with status %d instead of stopping", slot + 1, status)
                    self._status = self._status or 1
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
            *self._program,
            "serve",
            "--worker",
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
        address = ""
        async for line in process.stdout:
            self._pulses.hear(slot)
            if line != BEAT:
                address = line.decode().strip()
                self._ready(slot, address)
        status = await process.wait()
        del self._processes[slot]
        self._pulses.forget(slot)
        self._answering.discard(slot)
        mark_process_dead(process.pid, self._folder)  # type: ignore[no-untyped-call]
        return bool(address), status

    def _ready(self, slot: int, address: str) -> None:
        self._failing.discard(slot)
        self._answering.add(slot)
        self._first.set()
        if slot in self._been_ready:
            logger.info("worker %d answers again", slot + 1)
            return
        self._been_ready.add(slot)
        if len(self._been_ready) == self._settings.workers:
            self._tell(address)
