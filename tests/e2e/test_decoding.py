"""A server under images that are small to send and cost much to decode: others are answered, and memory has an end."""

import asyncio
import os
import re
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from benchmarks.client import Client, head
from tests import hostile_images
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.load import children, descendants, held_by_all
from tests.hostile_images import png
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
Figures = Callable[[str], None]
MIB = 1 << 20
GOOD = make_image("red")
LARGE = png(np.full((8000, 8000, 3), 99, np.uint8))
"""A second of the processor, and 64 million pixels, which are accepted."""
ANSWERED = {200, 400, 413, 429, 503}


def ended(server: Server, reason: str) -> float:
    """How many decodings were ended by force."""
    pattern = rf'^secondlook_decodings_ended_total{{reason="{reason}"}} (\S+)$'
    found = re.search(pattern, httpx.get(f"{server.url}/metrics", timeout=30).text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def send(server: Server, *named: tuple[str, bytes]) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/predict", files=[("file", one) for one in named], timeout=60)


def decoders(server: Server) -> list[int]:
    """Ids of the processes that decode."""
    return [pid for pid in descendants(server.process.pid) if not children(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def seconds_of(pid: int) -> float:
    """Of the processor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Attack:
    """What came of images that cost much, and of others beside them."""

    url: str
    hostile: Counter[int] = field(default_factory=Counter)
    others: Counter[int] = field(default_factory=Counter)
    longest_s: float = 0.0
    """That others waited."""
    seconds: float = 0.0
    before: int = 0
    peak: int = 0
    """Bytes of memory, of the server and its processes."""

    async def run(self, pid: int, bodies: list[bytes], headers: dict[str, str]) -> None:
        """Send all of them at once, each over a connection of its own."""
        self.before = self.peak = held_by_all(pid)
        others = [asyncio.create_task(self._other()) for _ in range(2)]
        watching = asyncio.create_task(self._watch(pid))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await asyncio.gather(*(self._send(body, headers) for body in bodies))
        self.seconds = time.monotonic() - began
        await asyncio.sleep(0.2)
        for task in (watching, *others):
            task.cancel()
        await asyncio.gather(watching, *others, return_exceptions=True)

    async def _send(self, body: bytes, headers: dict[str, str]) -> None:
        async with Client(self.url) as client:
            self.hostile[(await client.request("POST", "/v1/predict", body, headers)).status] += 1

    async def _other(self) -> None:
        async with Client(self.url) as client:
            while True:
                reply = await client.predict(GOOD)
                self.others[reply.status] += 1
                self.longest_s = max(self.longest_s, reply.seconds)
                await asyncio.sleep(0.02)

    async def _watch(self, pid: int) -> None:
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(held_by_all, pid))
            await asyncio.sleep(0.05)


IMAGE = {"Content-Type": "image/png"}
BOUNDARY = "an-image-ends-here"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(files: list[bytes]) -> bytes:
    opening = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    return b"".join(opening + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


def test_an_image_over_its_time_is_refused_and_its_decoding_ended(serve: Serve) -> None:
    server = serve(max_decode_s=0.15)
    alone = httpx.post(f"{server.url}/v1/predict", content=LARGE, headers=IMAGE, timeout=60)
    assert alone.status_code == 400
    assert alone.json()["type"] == "urn:secondlook:problem:image-too-slow"
    assert "0.15 s of the processor" in alone.json()["detail"]
    together = send(server, ("good.png", GOOD), ("large.png", LARGE), ("also good.png", GOOD))
    assert together.status_code == 200
    good, bad, also = together.json()["predictions"]
    assert good["label"] == also["label"]
    assert (bad["type"], bad["filename"]) == ("urn:secondlook:problem:image-too-slow", "large.png")
    assert bad["detail"].startswith("large.png: ")
    assert ended(server, "too_slow") == 2
    assert not [pid for pid in decoders(server) if seconds_of(pid) > 5]


def test_others_are_answered_beside_images_that_cost_much(serve: Serve, figures: Figures) -> None:
    server = serve(max_decode_s=0.5, max_decode_bytes=700 * MIB)
    hostile = [LARGE, hostile_images.run_length_bmp(), hostile_images.many_scans(3000)]
    hostile += [hostile_images.compressed_profiles(500_000), hostile_images.grey_16_bits(), LARGE[: len(LARGE) // 2]]
    attack = Attack(server.url)
    asyncio.run(attack.run(server.process.pid, hostile * 2, IMAGE))
    figures(
        f"{len(hostile) * 2} images that cost much, {dict(attack.hostile)} in {attack.seconds:.1f} s: others "
        f"{dict(attack.others)} waited {attack.longest_s:.2f} s at most; memory {attack.before / MIB:.0f} -> "
        f"{attack.peak / MIB:.0f} MiB"
    )
    assert attack.others.keys() == {200}
    assert attack.hostile.keys() <= ANSWERED
    # Beside what images take: what each process has for itself, and what comes and goes.
    assert attack.peak < attack.before + (700 + 150) * MIB
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def test_the_images_of_one_request_cost_no_more_than_one_may(serve: Serve) -> None:
    server = serve(max_decode_s=0.3)
    attack = Attack(server.url)
    asyncio.run(attack.run(server.process.pid, [form([LARGE] * 16 + [GOOD])], FORM))
    assert attack.hostile == {200: 1}  # the good one among them
    assert attack.others.keys() == {200}
    assert sum(seconds_of(pid) for pid in decoders(server)) < 16  # as many seconds as if all had been decoded


def test_what_a_client_that_left_had_sent_is_not_decoded(serve: Serve) -> None:
    server = serve()
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head("POST", "/v1/predict", len(LARGE), IMAGE) + LARGE)
        until(lambda: max(map(seconds_of, decoders(server)), default=0.0) > 0.3)
    until(lambda: ended(server, "abandoned") == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_left_of_a_server_that_was_killed(serve: Serve, workers: int) -> None:
    server = serve(workers=workers)
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head("POST", "/v1/predict", len(LARGE), IMAGE) + LARGE)
        until(lambda: max(map(seconds_of, decoders(server)), default=0.0) > 0.2)
        processes = descendants(server.process.pid)
        assert len(processes) > 3 * workers
        server.process.kill()
        server.process.wait()
    until(lambda: not any(map(is_alive, processes)))


def test_a_server_that_is_told_to_stop_ends_what_it_decodes(serve: Serve) -> None:
    server = serve(drain_timeout_s=0.5, max_decode_s=600)
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        scans = hostile_images.grey_16_bits()
        connection.sendall(head("POST", "/v1/predict", len(scans), IMAGE) + scans)
        until(lambda: max(map(seconds_of, decoders(server)), default=0.0) > 0.2)
        processes = decoders(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    until(lambda: not any(map(is_alive, processes)))


def test_decoders_that_die_are_replaced(serve: Serve) -> None:
    server = serve()
    (nursery,) = children(server.process.pid)
    for pid in decoders(server):
        os.kill(pid, signal.SIGKILL)
    assert send(server, ("a.png", GOOD)).status_code == 200
    os.kill(nursery, signal.SIGKILL)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
    assert send(server, ("a.png", GOOD)).status_code == 200
    assert "that starts anew" in server.log.read_text()


def test_thumbnails_of_what_was_taught_are_made_once(serve: Serve, tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    server = serve(bundles=root, admin_key=KEY)
    admin = {"Authorization": f"Bearer {KEY}"}
    taught = httpx.post(
        f"{server.url}/v1/entries", params={"label": "large"}, content=LARGE, headers=IMAGE | admin, timeout=60
    )
    assert taught.status_code == 201, taught.text
    (entry,) = taught.json()["entries"]
    where = f"{server.url}/v1/entries/{entry['id']}/thumbnail"
    spent = sum(map(seconds_of, decoders(server)))
    first = httpx.get(where, timeout=60)
    assert first.status_code == 200
    assert all(httpx.get(where, timeout=60).content == first.content for _ in range(4))
    assert sum(map(seconds_of, decoders(server))) < spent + 0.3  # none was decoded for it
    # One that was taught before thumbnails were kept is made when it is asked for, and kept.
    with sqlite3.connect(root / "taught.sqlite") as journal:
        journal.execute("UPDATE images SET thumbnail = NULL")
    journal.close()
    memory = held_by_all(server.process.pid)

    async def ask() -> list[bytes]:
        async def one() -> bytes:
            async with Client(server.url) as client:
                reply = await client.request("GET", urlsplit(where).path)
                assert reply.status == 200, reply.body
                return reply.body

        return await asyncio.gather(*(one() for _ in range(4)))

    assert set(asyncio.run(ask())) == {first.content}
    assert held_by_all(server.process.pid) < memory + 200 * MIB
    with sqlite3.connect(root / "taught.sqlite") as journal:
        assert journal.execute("SELECT thumbnail FROM images").fetchall() == [(first.content,)]
    journal.close()


@pytest.mark.soak
@pytest.mark.parametrize("count", [12, 50, 200])
@pytest.mark.parametrize("kind", ["run lengths", "scans", "profiles", "16 bits", "plain", "many in one"])
def test_nobody_waits_for_images_that_cost_much(serve: Serve, figures: Figures, kind: str, count: int) -> None:
    """On a machine with nothing else to do."""
    bodies = {
        "run lengths": hostile_images.run_length_bmp,
        "scans": hostile_images.many_scans,
        "profiles": hostile_images.compressed_profiles,
        "16 bits": hostile_images.grey_16_bits,
        "plain": lambda: LARGE,
        "many in one": lambda: form([LARGE] * 8),
    }
    if kind == "profiles" and count > 12:
        pytest.skip("so many bytes are not let in at once")
    server = serve()
    attack = Attack(server.url)
    asyncio.run(attack.run(server.process.pid, [bodies[kind]()] * count, FORM if kind == "many in one" else IMAGE))
    began = time.monotonic()
    assert server.stop() == 0
    figures(
        f"{count} x {kind}, {dict(attack.hostile)} in {attack.seconds:.1f} s: others {dict(attack.others)} waited "
        f"{attack.longest_s:.2f} s at most; memory {attack.before / MIB:.0f} -> {attack.peak / MIB:.0f} MiB; ended in "
        f"{time.monotonic() - began:.1f} s"
    )
    assert attack.others.keys() == {200}
    assert attack.hostile.keys() <= ANSWERED
    assert attack.longest_s < 1
    assert attack.peak < attack.before + (1536 + 300) * MIB
