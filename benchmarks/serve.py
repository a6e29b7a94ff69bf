"""What HTTP costs: a running server against the same pipeline called in its own process, and against other servers.

Each server is a process of its own, and so is the sender; all share this machine's cores, so what the sender takes is
missing to the server (``sender_cores`` says how much that was). A request is one image of the dataset that the bundle
caches, or another (``bodies``), as a raw body.

- **In-process**: files decoded and given to ``Predictor.predict``, in batches of the size that the server takes at
  most, in one thread beside the engine's own; and one at a time.
- **Closed loop** at 1, 8, 32 and 128 connections (``load``): images/s, and percentiles of the wait.
- **Open loop** at 0.7 of the best rate that the same server reached in the closed ones: percentiles of the wait,
  counted from when a request was due.

The processor's time for an image is that of a server's processes together, and in-process that of this one.

Everything is measured ROUNDS times in turn, because a machine is not equally fast at all times: rates are the median of
the rounds, percentiles are of all their waits.

Ours is measured with one worker, and with more where there are cores for them. Peers (``benchmarks/peers``) answer with
the same network, keys, theta, lam and k by ONNX Runtime, FAISS and numpy, behind other servers. Of several
configurations, or counts of workers above one, that with the most images/s at 32 connections is taken, and measured in
the same rounds.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from benchmarks.client import PREDICT, media_type, percentile
from benchmarks.load import Loaded, closed_loop, open_loop, run
from benchmarks.processor_time import processor_seconds
from benchmarks.served import COMPARED, LoadResult, ServeResult, ServerResult, Tried
from secondlook.evaluation.timing import repeated
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.errors import SecondlookError
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode

CONNECTIONS = (1, 8, 32, 128)
OPEN_SHARE = 0.7
ROUNDS = 3
WARM_UP = 0.25
"""Of the seconds measured."""
START_SECONDS = 60.0
CHECKED = 16
EVEN = 0.05
"""Between the probabilities of two classes that are as good as even: rounding decides between them, of bfloat16 too."""
PEERS = Path(__file__).parent / "peers"


class ServerError(SecondlookError):
    """A server that was to be measured does not start, or does not answer as it should."""


class Running(NamedTuple):
    """A server that has been started."""

    url: str
    process: int
    """Its id."""


class Candidate(NamedTuple):
    """A server that can be started."""

    name: str
    settings: str
    command: tuple[str, ...]
    """--port and its number are added."""
    workers: int = 1
    """As many of ours have to be ready."""


def serve(
    root: Path,
    bundle: Bundle,
    bodies: list[bytes],
    what: str,
    max_batch: int,
    with_peers: bool,
    seconds: float,
    progress: Progress = silent,
) -> ServeResult:
    """Measure the server of a root, whose active bundle this is, on image files, and say what those are.

    Raises:
        ServerError: a server does not start, or answers otherwise than the bundle itself.
    """
    direct = Direct(Predictor(bundle), bodies, max_batch)
    candidates = _ours(root)
    skipped: list[str] = []
    if with_peers:
        peers, skipped = _peers(root, max_batch)
        candidates |= peers
    tried: list[Tried] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as sender:
        chosen = []
        for name, configurations in candidates.items():
            rates: list[float] = []
            for candidate in configurations if len(configurations) > 1 else []:
                progress(f"trying {name}", len(rates), len(configurations))
                with running(candidate, direct) as server:
                    given = (server.url, bodies, COMPARED, WARM_UP * seconds, seconds)
                    loaded = sender.submit(run, closed_loop, *given).result()
                rates.append(len(loaded.waits) / loaded.seconds)
                tried.append(Tried(name, candidate.settings, rates[-1]))
            chosen.append(configurations[int(np.argmax(rates)) if rates else 0])
        rounds: list[list[_Round]] = [[] for _ in chosen]
        direct_rates: list[tuple[float, float]] = []
        singles: list[float] = []
        for turn in range(ROUNDS):
            direct_rates.append(direct.rate(seconds))
            singles += direct.one(seconds)
            for i, (candidate, own) in enumerate(zip(chosen, rounds, strict=True)):
                progress("serving", turn * len(chosen) + i, ROUNDS * len(chosen))
                with running(candidate, direct) as server:
                    own.append(_measure(sender, server, bodies, seconds, turn))
        progress("serving", ROUNDS * len(chosen), ROUNDS * len(chosen))
    rate, processor_ms = map(statistics.median, zip(*direct_rates, strict=True))
    return ServeResult(
        what,
        max_batch,
        rate,
        processor_ms,
        1000 * statistics.median(singles),
        [_server(candidate, own) for candidate, own in zip(chosen, rounds, strict=True)],
        tried,
        skipped,
    )


class Direct:
    """The pipeline without a server."""

    def __init__(self, predictor: Predictor, bodies: Sequence[bytes], batch: int) -> None:
        self.bodies = bodies
        self._predictor, self._batch = predictor, batch
        self._next = 0

    def answer(self, count: int) -> list[str]:
        """Return the first classes of the next images."""
        start = self._next % max(1, len(self.bodies) - count + 1)
        self._next += count
        classes = self._predictor.bundle.manifest.classes
        return [classes[int(answer.mixed.argmax())] for answer in self._predict(self.bodies[start : start + count])]

    def rate(self, seconds: float) -> tuple[float, float]:
        """Measure images a second in batches, and milliseconds of the processor for an image."""
        self.answer(self._batch)
        spent = time.process_time()
        times = repeated(lambda: self.answer(self._batch), seconds)
        images = self._batch * len(times)
        return images / sum(times), 1000 * (time.process_time() - spent) / images

    def one(self, seconds: float) -> list[float]:
        """Measure seconds for one image, many times."""
        self.answer(1)
        return repeated(lambda: self.answer(1), seconds)

    def _predict(self, bodies: Sequence[bytes]) -> list[Answer]:
        images = np.stack([decode(file, self._predictor.bundle.geometry, Limits(DEFAULT_PIXELS)) for file in bodies])
        answers = self._predictor.predict(images, [self._predictor.defaults] * len(images))
        return [answer for answer in answers if isinstance(answer, Answer)]

    def check(self, url: str, name: str) -> None:
        """Hold a server to what is answered without one.

        Raises:
            ServerError: it answers otherwise.
        """
        classes = self._predictor.bundle.manifest.classes
        for file, answer in zip(self.bodies[:CHECKED], self._predict(self.bodies[:CHECKED]), strict=True):
            status, body = ask(url, file)
            if status != 200:
                raise ServerError(f"{name} answers {status}: {body[:200]!r}")
            mixed = np.sort(answer.mixed)
            label = json.loads(body)["predictions"][0]["label"]
            if label != classes[int(answer.mixed.argmax())] and mixed[-1] - mixed[-2] > EVEN:
                raise ServerError(f"{name} says {label} of an image that is {classes[int(answer.mixed.argmax())]} here")


@contextmanager
def running(candidate: Candidate, direct: Direct) -> Iterator[Running]:
    """Start a server, say where it is once it answers as it should, and stop it at the end.

    Raises:
        ServerError: it does not start, or answers otherwise.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Whatever is set here for another server (a key, a port, threads) is not for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*candidate.command, "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that it is stopped with all processes it starts
        )
        try:
            until = time.monotonic() + START_SECONDS
            while not (_answers(url, direct.bodies[0]) and _all_work(url, candidate.workers)):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    told = log.read().decode(errors="replace").strip().splitlines()
                    raise ServerError(f"{candidate.name} does not start: {told[-1] if told else 'it says nothing'}")
                time.sleep(0.05)
            direct.check(url, candidate.name)
            yield Running(url, process.pid)
        finally:
            _stop(process)


def ask(url: str, file: bytes) -> tuple[int, bytes]:
    """Send one image, and return the answer's status and body.

    Raises:
        OSError: nobody answers.
    """
    return _call(url, "POST", PREDICT, file, {"Content-Type": media_type(file)})


def _call(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _answers(url: str, file: bytes) -> bool:
    try:
        return ask(url, file)[0] != 503  # not ready yet
    except (OSError, http.client.HTTPException):
        return False


def _all_work(url: str, workers: int) -> bool:
    return workers == 1 or b"\nsecondlook_workers %.1f\n" % workers in _call(url, "GET", "/metrics")[1]


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Round(NamedTuple):
    closed: dict[int, Loaded]
    processor_ms: dict[int, float]
    """Of the server, for an image."""
    offered: float
    open: Loaded


def _measure(sender: ProcessPoolExecutor, server: Running, bodies: list[bytes], seconds: float, turn: int) -> _Round:
    closed_loops: dict[int, Loaded] = {}
    processor_ms: dict[int, float] = {}
    for connections in CONNECTIONS:
        spent = processor_seconds(server.process)
        given = (server.url, bodies, connections, WARM_UP * seconds, seconds)
        loaded = closed_loops[connections] = sender.submit(run, closed_loop, *given).result()
        processor_ms[connections] = 1000 * (processor_seconds(server.process) - spent) / loaded.total
    best = max(len(loaded.waits) / loaded.seconds for loaded in closed_loops.values())
    offered = max(1.0, OPEN_SHARE * best)
    open_loaded = sender.submit(run, open_loop, server.url, bodies, offered, 2 * seconds, turn).result()
    return _Round(closed_loops, processor_ms, offered, open_loaded)


def _server(candidate: Candidate, rounds: list[_Round]) -> ServerResult:
    return ServerResult(
        candidate.name,
        candidate.settings,
        [
            _load(
                [r.closed[connections] for r in rounds],
                connections,
                None,
                statistics.median(r.processor_ms[connections] for r in rounds),
            )
            for connections in CONNECTIONS
        ],
        _load([r.open for r in rounds], None, statistics.median(r.offered for r in rounds)),
    )


def _load(
    loads: list[Loaded], connections: int | None, offered: float | None, processor_ms: float | None = None
) -> LoadResult:
    waits = [wait for loaded in loads for wait in loaded.waits]
    return LoadResult(
        connections,
        offered,
        statistics.median(len(loaded.waits) / loaded.seconds for loaded in loads),
        percentile(waits, 0.5),
        percentile(waits, 0.95),
        percentile(waits, 0.99),
        len(waits),
        sum(loaded.failures for loaded in loads),
        statistics.median(loaded.sender_cores for loaded in loads),
        processor_ms,
    )


def _ours(root: Path) -> dict[str, list[Candidate]]:
    """One worker, which is the default, and more in powers of two up to one for each core."""
    command = (sys.executable, "-m", "secondlook", "serve", "--bundles", str(root), "--workers")
    found: dict[str, list[Candidate]] = {}
    for count in (2**step for step in range((os.cpu_count() or 1).bit_length())):
        name = "secondlook" if count == 1 else "secondlook, workers"
        settings = f"{version('secondlook')} --workers={count}"
        found.setdefault(name, []).append(Candidate(name, settings, (*command, str(count)), count))
    return found


def _peers(root: Path, max_batch: int) -> tuple[dict[str, list[Candidate]], list[str]]:
    """Configurations of the peers that can be run here, and the names of the others.

    LitServe's are what its documentation has to offer for many small requests: how long a batch waits for more,
    inference workers that share the cores, and ZeroMQ in place of its own queue.
    """
    if not PEERS.is_dir():
        raise ServerError("the peers' scripts are not installed: run this in the project's folder")
    cores = os.cpu_count() or 1
    found: dict[str, list[Candidate]] = {}
    skipped = []
    configurations = {
        "litserve": [
            (
                f"--max-batch={max_batch}",
                f"--batch-timeout={wait}",
                f"--workers={workers}",
                f"--threads={cores // workers}",
                *queue,
            )
            for wait, workers, queue in (
                (0.0, 1, ()),
                (0.001, 1, ()),
                (0.005, 1, ()),
                (0.01, 1, ()),
                (0.005, cores, ()),
                (0.005, 1, ("--fast-queue",)),
                (0.005, cores, ("--fast-queue",)),
            )
        ],
        "fastapi": [()],
    }
    for name, each in configurations.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            skipped.append(name)
            continue
        found[name] = [
            Candidate(
                name,
                " ".join((installed, *options)),
                (sys.executable, "-m", f"benchmarks.peers.{name}_server", "--bundles", str(root), *options),
            )
            for options in each
        ]
    return found, skipped
