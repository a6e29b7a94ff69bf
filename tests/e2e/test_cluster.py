"""Three servers behind a balancer on one Milvus, under load, while everything is switched, killed and started again."""

import asyncio
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.client import Client, Reply, percentile
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import generations
from secondlook.model.stores.milvus_server import Milvus
from tests.e2e.conftest import KEY, Server, generation
from tests.e2e.load import Load
from tests.e2e.test_milvus import cache, connect, index  # noqa: F401
from tests.e2e.test_switching import ASKED, TOLERANCE, make_datasets, rebuild
from tests.milvus_for_tests import MilvusProcess

pytestmark = pytest.mark.cluster

Known = dict[str, dict[str, float]]


@dataclass
class Tally:
    """Answers held to the generation that each names: its mixture, or its network alone where that is said."""

    root: Path
    milvus: Milvus
    mixed: Known = field(default_factory=dict)
    network: Known = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def know(self, generation: str) -> None:
        """Compute here what a generation says of ASKED."""
        predictor = Predictor(open_bundle(self.root, generation, threads=1, milvus=self.milvus))
        (answer,) = predictor.predict(np.asarray(Image.open(io.BytesIO(ASKED)))[None], [predictor.defaults])
        assert isinstance(answer, Answer)
        for known, said in ((self.mixed, answer.mixed), (self.network, answer.network)):
            known[generation] = dict(zip(predictor.classes, map(float, said), strict=True))

    def count(self, replies: list[Reply]) -> None:
        for reply in replies:
            body = reply.json()
            said, named = body["predictions"][0], body["generation"]
            told = {one["label"]: one["probability"] for one in said["top"]}
            is_alone = said["cache"] is None
            right = (self.network if is_alone else self.mixed)[named]
            if told != pytest.approx(right, abs=TOLERANCE):
                self.counts["mixed up"] += 1
            self.counts["network alone" if is_alone else "whole"] += 1


async def everywhere(servers: list[Server], is_so: Callable[[dict[str, Any]], bool], seconds: float = 90) -> float:
    """Seconds until each server's answer is so."""
    start = time.monotonic()
    for server in servers:
        async with Client(server.url) as client:
            while True:
                try:
                    reply = await client.predict(ASKED, "?top=10")
                    if reply.status == 200 and is_so(reply.json()):
                        break
                except (ConnectionError, TimeoutError):
                    pass
                assert time.monotonic() < start + seconds, f"not in time at {server.url}"
                await asyncio.sleep(0.05)
    return time.monotonic() - start


async def trial(
    url: str,
    servers: list[Server],
    again: Callable[[int], Server],
    milvus: MilvusProcess,
    tally: Tally,
    datasets: tuple[str, str],
    cycles: int,
    note: Callable[[str], None],
) -> None:
    moved: list[float] = []
    async with Load(url, ASKED, "?top=10", connections=6) as load:
        async with Client(url) as admin:
            for i in range(cycles):
                job = await rebuild(admin, dataset=datasets[i % 2])
                assert job["state"] == "succeeded", job
                named = job["generation"]
                moved.append(await everywhere(servers, lambda body, named=named: body["generation"] == named, 30))  # type: ignore[misc]
                await asyncio.to_thread(tally.know, named)
                replies, load.replies = load.replies, []
                tally.count(replies)
        assert tally.counts["network alone"] == 0
        switching, failed_switching = tally.counts.copy(), len(load.failures)
        after = f"{percentile(moved, 0.5) / 1000:.1f} s after the job's end (at most {percentile(moved, 1) / 1000:.1f})"
        note(
            f"{cycles} rebuilds and switches of three servers behind nginx on one Milvus: "
            f"{switching['whole']:,} answers, {failed_switching} failed, {switching['mixed up']} mixed; all three "
            f"moved {after}"
        )

        servers[2].process.kill()
        await asyncio.sleep(3)
        servers[2] = await asyncio.to_thread(again, urlsplit(servers[2].url).port or 0)
        await everywhere(servers, lambda body: body["predictions"][0]["cache"] is not None)
        await asyncio.sleep(2)
        killed = len(load.failures) - failed_switching

        milvus.kill()
        gone = time.monotonic()
        await everywhere(servers, lambda body: body["predictions"][0]["cache"] is None)
        await asyncio.sleep(3)
        await asyncio.to_thread(milvus.start)
        booted = time.monotonic()
        back = await everywhere(servers, lambda body: body["predictions"][0]["cache"] is not None, 120)
        away = time.monotonic() - gone
        await asyncio.sleep(2)
    tally.count(load.replies)
    without = len(load.failures) - failed_switching - killed
    seconds = [reply.seconds for reply in load.replies]
    note(
        f"then a server killed and started again: {killed} failed; then Milvus killed and started again, away for "
        f"{away:.0f} s (the cache votes {back:.1f} s after it says it is well): {without} failed, "
        f"{tally.counts['network alone']:,} answers of the network alone, {tally.counts['mixed up']} mixed; p50 "
        f"{percentile(seconds, 0.5):.0f} ms, p99 {percentile(seconds, 0.99):.0f} ms"
    )
    assert booted > gone
    assert load.failures == []
    assert tally.counts["mixed up"] == 0
    assert tally.counts["network alone"] > 0


@pytest.mark.parametrize("cycles", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_three_servers_on_one_milvus_lose_and_mix_no_answer(
    serve: Callable[..., Server],
    balance: Callable[..., Any],
    cache: dict[str, str],  # noqa: F811
    milvus: MilvusProcess,
    tiny_bundle: Path,
    tmp_path: Path,
    figures: Callable[[str], None],
    cycles: int,
) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    datasets = make_datasets(tmp_path / "data")
    first = index(root, cache, tmp_path / "data" / datasets[0])
    settings = cache | {"bundles": root, "admin_key": KEY, "threads": 1, "keep_generations": 3, "milvus__grace_s": 5}
    servers = [serve(**settings, data=tmp_path / "data"), *(serve(**settings, replica="true") for _ in range(2))]
    tally = Tally(root, connect(milvus, cache["milvus__cache"]))
    tally.know(first)
    trial_ = trial(
        balance(servers).url,
        servers,
        lambda port: serve(**settings, replica="true", port=port),
        milvus,
        tally,
        (datasets[1], datasets[0]),
        cycles,
        figures,
    )
    asyncio.run(trial_)
    kept = {*generations(root)}
    if cycles > 4:  # those that were pruned are gone from Milvus too
        held = json.dumps(tally.milvus.call("list_collections"))
        assert sum(one.replace("-", "_") in held for one in tally.mixed) <= len(kept) + 1
    assert {generation(server.url) for server in servers} <= kept
    assert httpx.get(f"{servers[0].url}/readyz").status_code == 200
