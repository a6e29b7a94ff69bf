"""A real server that is taught: killed at any moment, on disks without room, beside others on the same root."""

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.model.journal import JOURNAL, Journal
from secondlook.model.stores.added_keys import number_of
from tests.e2e.conftest import KEY, Server, fill, until
from tests.e2e.test_switching import ADMIN
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
Figures = Callable[[str], None]

CLIENTS = 8
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def teach(url: str, content: bytes, label: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/entries", params={"label": label}, content=content, headers=ADMIN | PNG | headers, timeout=30
    )


def look(url: str, content: bytes) -> Any:
    asked = httpx.post(f"{url}/v1/predict?k=1&lam=1&neighbors=1", content=content, headers=PNG, timeout=30)
    return asked.json()["predictions"][0]


class Teacher(threading.Thread):
    """Teaches one image after another; each call is repeated until it is acknowledged."""

    def __init__(self, number: int, where: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self._number, self._where = number, where
        self.acknowledged: dict[str, int] = {}
        """SHA-256 of each image that was acknowledged, and its entry's id."""
        self.repeated = 0
        self.unexpected: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until told to stop; the call at hand is finished."""
        for i in range(100_000):
            if self.stopping.is_set():
                return
            content = make_image("red", seed=100_000 * self._number + i)
            while True:
                try:
                    said = teach(self._where(), content, "taught red", **{"Idempotency-Key": f"{self._number} {i}"})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if said.status_code == 201:
                    self.acknowledged[sha256(content).hexdigest()] = said.json()["entries"][0]["id"]
                    self.repeated += "idempotent-replayed" in said.headers
                    break
                if said.status_code != 503:  # one that is about to end says so
                    self.unexpected.append(said.text)
                    break


@pytest.mark.parametrize("kills", [pytest.param(5, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.soak)])
def test_what_was_acknowledged_survives_kills_and_is_there_once(
    serve: Serve, root: Path, figures: Figures, kills: int
) -> None:
    chance = random.Random(kills)
    options = {"bundles": root, "admin_key": KEY}
    server = serve(**options)
    teachers = [Teacher(number, lambda: server.url) for number in range(CLIENTS)]
    for teacher in teachers:
        teacher.start()
    for _ in range(kills):
        before = sum(len(teacher.acknowledged) for teacher in teachers)
        until(lambda: sum(len(teacher.acknowledged) for teacher in teachers) > before)  # noqa: B023 - called at once
        time.sleep(chance.uniform(0, 0.5))
        server.process.kill()
        server.process.wait()
        server = serve(**options)
    for teacher in teachers:
        teacher.stopping.set()
    for teacher in teachers:
        teacher.join(60)
        assert not teacher.is_alive()
        assert teacher.unexpected == []
    acknowledged = {key: entry for teacher in teachers for key, entry in teacher.acknowledged.items()}
    journal = Journal(root)
    live = [image.number for image in journal.since(0).images if image.label is not None]
    kept = {number: sha256(journal.content(number) or b"").hexdigest() for number in live}
    assert max(Counter(kept.values()).values()) == 1
    assert {number_of(entry): key for key, entry in acknowledged.items()} == kept
    told = httpx.get(f"{server.url}/v1/model").json()
    assert told["taught"]["images"] == len(kept)
    assert told["counts"][-1] == len(kept)
    figures(
        f"{kills} x kill -9 while {CLIENTS} clients taught: {len(acknowledged):,} images acknowledged, each there "
        f"once; {sum(teacher.repeated for teacher in teachers)} calls were answered when they were repeated"
    )


def test_servers_and_workers_on_one_root_know_what_each_is_taught(serve: Serve, root: Path) -> None:
    one, two = serve(bundles=root, admin_key=KEY, workers=2), serve(bundles=root, admin_key=KEY)
    content = make_image("green", seed=5)
    made = teach(one.url, content, "moss").json()["entries"][0]["id"]
    until(lambda: look(two.url, content)["label"] == "moss")
    # Each connection may be another worker's.
    until(lambda: all(look(one.url, content)["label"] == "moss" for _ in range(8)))
    assert httpx.delete(f"{two.url}/v1/entries/{made}", headers=ADMIN).status_code == 204
    assert look(two.url, content)["label"] != "moss"
    until(lambda: all(look(one.url, content)["label"] != "moss" for _ in range(8)))


def test_a_full_disk_keeps_nothing_by_halves(
    serve: Serve, tiny_bundle: Path, small_disk: Callable[[str], Path]
) -> None:
    size = sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
    disk = small_disk(f"size={size + (1 << 20)}")
    root = Path(shutil.copytree(tiny_bundle, disk / "bundles"))
    server = serve(bundles=root, admin_key=KEY)
    assert teach(server.url, make_image("red", seed=1), "first").status_code == 201
    ballast = fill(disk)
    large = make_image("red", (300, 300), seed=2)
    refused = teach(server.url, large, "second", **{"Idempotency-Key": "again"})
    assert refused.status_code == 507, refused.text
    assert refused.json()["type"] == "urn:secondlook:problem:disk-full"
    assert str(disk) not in refused.text
    told = httpx.get(f"{server.url}/v1/model").json()
    assert (told["classes"][3:], told["taught"]["images"]) == (["first"], 1)
    assert look(server.url, make_image("red", seed=1))["label"] == "first"
    ballast.unlink()
    assert teach(server.url, large, "second", **{"Idempotency-Key": "again"}).status_code == 201
    assert look(server.url, large)["label"] == "second"
    assert [image.label for image in Journal(root).since(0).images] == ["first", "second"]


def test_a_root_that_cannot_be_written_answers_with_what_was_taught(
    serve: Serve, tiny_bundle: Path, small_disk: Callable[[str], Path]
) -> None:
    root = Path(shutil.copytree(tiny_bundle, small_disk("size=64m") / "bundles"))
    content = make_image("red", seed=1)
    server = serve(bundles=root, admin_key=KEY)
    assert teach(server.url, content, "first").status_code == 201
    assert server.stop() == 0
    small_disk("remount,ro")
    server = serve(bundles=root, admin_key=KEY)
    assert look(server.url, content)["label"] == "first"
    refused = teach(server.url, content, "second")
    assert refused.status_code == 503, refused.text
    assert refused.json()["type"] == "urn:secondlook:problem:not-kept"
    assert look(server.url, content)["label"] == "first"


def test_a_damaged_journal_is_named(serve: Serve, root: Path) -> None:
    (root / JOURNAL).write_bytes(b"not a database " * 1000)
    with pytest.raises(AssertionError, match=r"taught\.sqlite"):
        serve(bundles=root, admin_key=KEY)
