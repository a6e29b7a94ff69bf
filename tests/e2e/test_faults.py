"""Killed processes, full and read-only disks: the last good generation serves, nothing half-written is loaded."""

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from benchmarks.client import Client
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import active_generation, generations
from tests.e2e.conftest import KEY, Server, fill, generation, until
from tests.e2e.load import rebuilding
from tests.e2e.test_switching import ADMIN, ASKED, TOLERANCE, expected, make_datasets, rebuild

Serve = Callable[..., Server]
Figures = Callable[[str], None]


STAGES = ("fit", "activate", "start", "verify", "embed")
AFTER_STAGE_S = {"start": 2.0, "embed": 0.1, "fit": 0.1, "verify": 0.1, "activate": 0.3}
"""A kill comes up to so long after a stage was seen to begin."""


def assert_sound(server: Server, root: Path, among: set[str] | None = None) -> str:
    """What serves is the root's active generation, whole, and answers as it does here; its id."""
    named = generation(server.url)
    assert named == active_generation(root)
    assert among is None or named in among
    (answer,) = httpx.post(
        f"{server.url}/v1/predict?top=10", content=ASKED, headers={"Content-Type": "image/png"}, timeout=30
    ).json()["predictions"]
    told = {one["label"]: one["probability"] for one in answer["top"]}
    assert told == pytest.approx(expected(root, named), abs=TOLERANCE)
    return named


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def start_rebuild(server: Server, dataset: str) -> str:
    """Where the job is."""
    started = httpx.post(f"{server.url}/v1/admin/rebuild", headers=ADMIN, json={"dataset": dataset})
    assert started.status_code == 202, started.text
    return f"{server.url}{started.headers['Location']}"


def job_of(where: str) -> dict[str, object]:
    job: dict[str, object] = httpx.get(where, headers=ADMIN).json()
    return job


def wait_for(where: str) -> dict[str, object]:
    """The job once it is over."""
    until(lambda: job_of(where)["state"] != "running", 120)
    return job_of(where)


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.soak)])
def test_kill_9_at_any_moment_of_a_rebuild(
    serve: Serve, tiny_bundle: Path, tmp_path: Path, figures: Figures, kills: int
) -> None:
    chance = random.Random(kills)
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    datasets = make_datasets(tmp_path / "data")
    options = {"bundles": root, "data": tmp_path / "data", "admin_key": KEY, "keep_generations": 3}
    server = serve(**options)
    assert wait_for(start_rebuild(server, datasets[1]))["state"] == "succeeded"
    died: dict[str, int] = {}
    stages: dict[str, int] = {}
    done = 0
    served = {active_generation(root)}
    for i in range(kills):
        where = start_rebuild(server, datasets[i % 2])
        until(lambda: rebuilding(server.process.pid))  # noqa: B023 - called at once
        (indexer,) = rebuilding(server.process.pid)
        wanted = STAGES[i // 2 % len(STAGES)]
        while (job := job_of(where))["state"] == "running" and job["stage"] != wanted:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, AFTER_STAGE_S[wanted]))
        stages[wanted] = stages.get(wanted, 0) + 1
        victim = "server" if i % 2 else "indexer"
        died[victim] = died.get(victim, 0) + 1
        if victim == "indexer":
            with suppress(ProcessLookupError):  # it was done in between
                os.kill(indexer, signal.SIGKILL)
            ended = wait_for(where)
            assert ended["state"] in ("failed", "succeeded"), ended
            assert ended["state"] == "succeeded" or "status -9" in str(ended["error"]), ended
            done += ended["state"] == "succeeded"
        else:
            server.process.kill()
            server.process.wait()
            server = serve(**options)
        served.add(assert_sound(server, root))
        for named in generations(root):
            open_bundle(root, named, threads=1)  # whatever has a generation's name is whole
    # An indexer whose server was killed ends by itself, or finishes what nobody will ask for.
    last = wait_for(start_rebuild(server, datasets[kills % 2]))
    assert last["state"] == "succeeded", last
    assert assert_sound(server, root) == last["generation"]
    until(lambda: not leftovers(root) or not drafts_in_use(server, root, datasets[0]))
    assert leftovers(root) == []
    figures(
        f"{kills} x kill -9 ({', '.join(f'{n} of the {who}' for who, n in died.items())}; stages reached: "
        f"{', '.join(f'{stage} {n}' for stage, n in stages.items())}): each time the last good generation served; "
        f"{done} times the indexer was done already; {len(served)} generations in turn"
    )


def drafts_in_use(server: Server, root: Path, dataset: str) -> bool:
    """Whether the leftovers survive a rebuild, which sweeps those whose writer is dead."""
    assert wait_for(start_rebuild(server, dataset))["state"] == "succeeded"
    return bool(leftovers(root))


@pytest.mark.parametrize("free_share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_disk_that_fills_up_during_a_rebuild(
    serve: Serve, tiny_bundle: Path, tmp_path: Path, small_disk: Callable[[str], Path], free_share: float
) -> None:
    size = sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
    disk = small_disk(f"size={int((1 + free_share) * size)}")
    root = Path(shutil.copytree(tiny_bundle, disk / "bundles"))
    _, renamed = make_datasets(tmp_path / "data")
    first = active_generation(root)
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY)
    job = wait_for(start_rebuild(server, renamed))
    assert job["state"] == "failed", job
    assert str(disk) not in str(job["error"])
    assert_sound(server, root, {first})
    assert generations(root) == [first]
    assert leftovers(root) == []
    small_disk(f"remount,size={4 * size}")
    assert wait_for(start_rebuild(server, renamed))["state"] == "succeeded"
    assert assert_sound(server, root) != first
    # Full to the last byte: not even the pointer can be written.
    fill(disk)
    refused = httpx.post(f"{server.url}/v1/admin/generations/{first}/activate", headers=ADMIN)
    assert refused.status_code == 409, refused.text
    assert "CURRENT cannot be replaced" in refused.text
    assert_sound(server, root, {active_generation(root)} - {first})
    assert leftovers(root) == []


def test_a_root_that_becomes_read_only(
    serve: Serve, tiny_bundle: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    root = Path(shutil.copytree(tiny_bundle, small_disk("size=64m") / "bundles"))
    _, renamed = make_datasets(tmp_path / "data")
    first = active_generation(root)
    options = {"bundles": root, "data": tmp_path / "data", "admin_key": KEY}
    server = serve(**options)
    job = wait_for(start_rebuild(server, renamed))
    second = assert_sound(server, root, {str(job["generation"])})
    small_disk("remount,ro")
    for running in (server, serve(**options)):
        assert_sound(running, root, {second})
        job = wait_for(start_rebuild(running, renamed))
        assert (job["state"], job["error"]) == (
            "failed",
            "no bundle can be written below SECONDLOOK_BUNDLES: Read-only file system",
        )
        refused = httpx.post(f"{running.url}/v1/admin/generations/{first}/activate", headers=ADMIN)
        assert refused.status_code == 409, refused.text
        assert "CURRENT cannot be replaced: Read-only file system" in refused.text
        assert_sound(running, root, {second})
    small_disk("remount,rw,size=64m")

    async def again() -> None:
        async with Client(server.url) as client:
            assert (await rebuild(client, dataset=renamed))["state"] == "succeeded"

    asyncio.run(again())


def test_a_damaged_active_generation_is_named_and_the_one_before_serves(
    serve: Serve, tiny_bundle: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    _, renamed = make_datasets(tmp_path / "data")
    first = active_generation(root)
    options = {"bundles": root, "data": tmp_path / "data", "admin_key": KEY}
    server = serve(**options)
    second = str(wait_for(start_rebuild(server, renamed))["generation"])
    assert server.stop() == 0
    keys = root / second / "keys.faiss"
    keys.write_bytes(keys.read_bytes()[:100])
    server = serve(**options)
    assert generation(server.url) == first
    assert "keys.faiss has 100 bytes" in server.log.read_text()
    time.sleep(2.5)  # beyond the next look at CURRENT, which still names the damaged one
    assert generation(server.url) == first
    assert httpx.post(f"{server.url}/v1/admin/generations/{first}/activate", headers=ADMIN).status_code == 200
    assert_sound(server, root, {first})
