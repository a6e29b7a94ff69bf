"""Rebuilds and switches under load: every answer is one generation's, and none is lost."""

import asyncio
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.client import Client, Reply, percentile
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import active_generation, generations
from tests.e2e.conftest import KEY, Server, generation, until
from tests.e2e.load import Load
from tests.images_for_tests import COLOURS, make_folder, make_image

ADMIN = {"Authorization": f"Bearer {KEY}"}
ASKED = make_image("red", seed=5)
TOLERANCE = 1e-3
NEAR_SWITCH = 1.0
"""Seconds before and after a switch in which a request counts as met by it."""

Serve = Callable[..., Server]


def make_datasets(root: Path) -> tuple[str, str]:
    """The same plain colours under their own names, and each under the next one's."""
    make_folder(root / "plain")
    names = list(COLOURS)
    for i, name in enumerate(names):
        shutil.copytree(root / "plain" / name, root / "renamed" / names[(i + 1) % len(names)])
    return "plain", "renamed"


def expected(root: Path, generation: str) -> dict[str, float]:
    """What that generation says of ASKED, computed here."""
    predictor = Predictor(open_bundle(root, generation, threads=1))
    images = np.asarray(Image.open(io.BytesIO(ASKED)))[None]
    (answer,) = predictor.predict(images, [predictor.defaults])
    assert isinstance(answer, Answer)
    return dict(zip(predictor.bundle.manifest.classes, map(float, answer.mixed), strict=True))


@dataclass
class Cycles:
    """What is known of each generation, and when each was first seen to answer."""

    known: dict[str, dict[str, float]] = field(default_factory=dict)
    checked: int = 0

    def check(self, replies: list[Reply]) -> None:
        """Hold answers to the generation that each names."""
        for reply in replies:
            body = reply.json()
            told = {one["label"]: one["probability"] for one in body["predictions"][0]["top"]}
            assert told == pytest.approx(self.known[body["generation"]], abs=TOLERANCE), body["generation"]
            self.checked += 1


async def rebuild(client: Client, **asked: object) -> dict[str, Any]:
    """A rebuild from beginning to end."""
    started = await client.request(
        "POST", "/v1/admin/rebuild", json.dumps(asked).encode(), ADMIN | {"Content-Type": "application/json"}
    )
    assert started.status == 202, started.body
    while True:
        job: dict[str, Any] = (
            await client.request("GET", f"/v1/admin/jobs/{started.json()['id']}", headers=ADMIN)
        ).json()
        if job["state"] != "running":
            return job
        await asyncio.sleep(0.1)


async def cycle(
    server: Server, root: Path, datasets: tuple[str, str], cycles: int, note: Callable[[str], None]
) -> None:
    known = Cycles({(before := active_generation(root)): expected(root, before)})
    order = [before]
    quiet: list[float] = []
    building: list[float] = []
    near: list[float] = []
    async with Client(server.url) as admin, Load(server.url, ASKED, "?top=10") as load:
        await asyncio.sleep(3)
        quiet += [reply.seconds for reply in load.replies if reply.status == 200]
        known.check(load.replies)
        load.replies.clear()
        for i in range(cycles):
            job = await rebuild(admin, dataset=datasets[i % 2])
            assert job["state"] == "succeeded", job
            await asyncio.sleep(NEAR_SWITCH)
            named = job["generation"]
            known.known[named] = await asyncio.to_thread(expected, root, named)
            far = max(abs(known.known[named][label] - p) for label, p in known.known[order[-1]].items())
            assert far > 100 * TOLERANCE, "the two generations cannot be told apart"
            replies = load.replies[:]
            del load.replies[: len(replies)]
            known.check(replies)
            # Each connection has one request at a time, so answers change over at once.
            switched = min(reply.started for reply in replies if reply.json()["generation"] == named)
            seen = dict.fromkeys(reply.json()["generation"] for reply in sorted(replies, key=lambda r: r.started))
            assert list(seen) == [order[-1], named]
            for reply in replies:
                met = abs(reply.started - switched) < NEAR_SWITCH
                (near if met else building).append(reply.seconds)
            order.append(named)
        back: list[float] = []
        for named in [order[-2], order[-1]] * 5:
            reply = await admin.request("POST", f"/v1/admin/generations/{named}/activate", headers=ADMIN)
            assert reply.status == 200, reply.body
            back.append(reply.seconds)
        assert generation(server.url) == active_generation(root) == order[-1]
    known.check(load.replies)
    assert load.failures == []
    assert known.checked > 20 * cycles
    note(
        f"{cycles} rebuilds and switches under load: {known.checked:,} answers, 0 failed, 0 mixed; p99 "
        f"{percentile(quiet, 0.99):.0f} ms without rebuilds, {percentile(building, 0.99):.0f} ms during one, "
        f"{percentile(near, 0.99):.0f} ms within {NEAR_SWITCH:g} s of a switch (p50 {percentile(quiet, 0.5):.0f}, "
        f"{percentile(building, 0.5):.0f}, {percentile(near, 0.5):.0f}); activating by hand under load took "
        f"{percentile(back, 0.5):.0f} ms, at most {percentile(back, 1):.0f}"
    )


@pytest.mark.parametrize("cycles", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_each_answer_is_wholly_one_generations(
    serve: Serve, tiny_bundle: Path, tmp_path: Path, figures: Callable[[str], None], cycles: int
) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    datasets = make_datasets(tmp_path / "data")
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY, keep_generations=3)
    asyncio.run(cycle(server, root, (datasets[1], datasets[0]), cycles, figures))
    assert len(generations(root)) == 3, "old generations were not pruned"
    assert server.process.poll() is None


def test_two_servers_asked_to_rebuild_one_root_at_once(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    plain, renamed = make_datasets(tmp_path / "data")
    servers = [serve(bundles=root, data=tmp_path / "data", admin_key=KEY, keep_generations=1) for _ in range(2)]

    async def both() -> dict[str, Any]:
        async with Client(servers[0].url) as first, Client(servers[1].url) as second:
            headers = ADMIN | {"Content-Type": "application/json"}
            started = await asyncio.gather(
                *(
                    client.request("POST", "/v1/admin/rebuild", json.dumps({"dataset": name}).encode(), headers)
                    for client, name in ((first, plain), (second, renamed))
                )
            )
            assert sorted(reply.status for reply in started) == [202, 409], [reply.body for reply in started]
            (job,) = (reply.json() for reply in started if reply.status == 202)
            assert job["id"] in next(reply for reply in started if reply.status == 409).json()["detail"]
            # Whoever runs it, either says how it goes.
            for client in (first, second):
                while job["state"] == "running":
                    await asyncio.sleep(0.1)
                    job = (await client.request("GET", f"/v1/admin/jobs/{job['id']}", headers=ADMIN)).json()
                assert job == (await client.request("GET", f"/v1/admin/jobs/{job['id']}", headers=ADMIN)).json()
            assert (await rebuild(second, dataset=plain))["state"] == "succeeded"
            return job

    assert asyncio.run(both())["state"] == "succeeded"
    named = active_generation(root)
    wanted = expected(root, named)
    for server in servers:
        until(lambda server=server: generation(server.url) == named)  # type: ignore[misc]
        files = {"file": ("a.png", ASKED)}
        (answer,) = httpx.post(f"{server.url}/v1/predict?top=10", files=files).json()["predictions"]
        assert {one["label"]: one["probability"] for one in answer["top"]} == pytest.approx(wanted, abs=TOLERANCE)
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_what_a_replica_has_open_is_not_pruned_under_it(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    plain, renamed = make_datasets(tmp_path / "data")
    first = active_generation(root)
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY, keep_generations=1)
    holding = open_bundle(root, first)  # as another replica does

    async def thrice() -> None:
        async with Client(server.url) as client:
            for name in (renamed, plain, renamed):
                assert (await rebuild(client, dataset=name))["state"] == "succeeded"

    asyncio.run(thrice())
    assert len(generations(root)) == 3
    assert generations(root)[0] == first
    assert open_bundle(root, first).store.count == holding.store.count
