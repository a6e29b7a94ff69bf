"""A whole cluster: the balancer before a primary and two replicas, which search in a real Milvus."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.balancer import Cluster
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.load import Load
from tests.e2e.test_milvus import cache as cache
from tests.e2e.test_milvus import root as root
from tests.e2e.test_switching import ADMIN, ASKED
from tests.milvus_for_tests import MilvusProcess

pytestmark = pytest.mark.cluster

PNG = {"Content-Type": "image/png"}


def look(cluster: Cluster) -> list[Any]:
    """What a dozen predictions say."""
    answers = [
        httpx.post(f"{cluster.url}/v1/predict?k=1&lam=1&neighbors=1", content=ASKED, headers=PNG, timeout=30)
        for _ in range(12)
    ]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json()["predictions"][0] for answer in answers]


def labels(cluster: Cluster) -> set[str]:
    return {one["label"] for one in look(cluster)}


def lose(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def test_what_was_taught_is_answered_by_all_and_outlives_the_loss_of_any(
    serve: Callable[..., Server],
    balance: Callable[..., Cluster],
    milvus: MilvusProcess,
    root: Path,
    cache: dict[str, str],
) -> None:
    settings = cache | {"bundles": root, "threads": 1}

    def start_primary(port: int = 0) -> Server:
        return serve(port=port, admin_key=KEY, **settings)

    primary = start_primary()
    cluster = balance([primary, *(serve(**settings, replica="true") for _ in range(2))])

    def teach(label: str) -> httpx.Response:
        return httpx.post(f"{cluster.url}/v1/entries?label={label}", content=ASKED, headers=ADMIN | PNG, timeout=30)

    taught = teach("mauve")
    assert taught.status_code == 201, taught.text
    until(lambda: labels(cluster) == {"mauve"}, 15)
    assert len(cluster.answering("POST", "/v1/predict", content=ASKED, headers=PNG)) == 3

    async def lose_primary() -> Load:
        async with Load(cluster.url, ASKED) as load:
            await asyncio.sleep(0.5)
            lose(primary)
            await asyncio.sleep(2)
        return load

    assert asyncio.run(lose_primary()).failures == []
    assert labels(cluster) == {"mauve"}
    assert (teach("ochre").status_code, teach("ochre").headers["retry-after"]) == (503, "2")
    start_primary(int(urlsplit(primary.url).port or 0))
    path = f"/v1/entries/{taught.json()['entries'][0]['id']}"
    relabelled = httpx.patch(cluster.url + path, json={"label": "ochre"}, headers=ADMIN, timeout=30)
    assert relabelled.status_code == 200, relabelled.text
    until(lambda: labels(cluster) == {"ochre"}, 15)

    lose(cluster.servers[1])
    milvus.kill()
    try:
        assert [one["cache"] for one in look(cluster)] == [None] * 12
    finally:
        milvus.start()
    until(lambda: all(one["cache"] is not None for one in look(cluster)), 120)
    until(lambda: labels(cluster) == {"ochre"}, 30)
