"""The cluster's balancer: Debian's nginx with the very configuration of the Compose file, before real servers."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from secondlook.service.settings import Settings
from tests.e2e.balancer import NOBODY, Cluster, addresses
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.load import Load
from tests.e2e.test_switching import ADMIN, ASKED

pytestmark = pytest.mark.cluster

READING = ("/v1/predict", "/v1/search", "/v1/embed")
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def start(serve: Callable[..., Server], root: Path) -> Callable[..., Server]:
    return lambda **given: serve(bundles=root, admin_key=KEY, threads=1, **given)


@pytest.fixture
def cluster(start: Callable[..., Server], balance: Callable[..., Cluster]) -> Cluster:
    return balance([start() for _ in range(3)])


def test_all_answer_and_the_primary_alone_changes_anything(cluster: Cluster) -> None:
    primary, *replicas = addresses(cluster.servers)
    everyone = {primary, *replicas}
    for path in READING:
        assert cluster.answering("POST", path, content=ASKED, headers=PNG) == everyone
    assert cluster.answering("GET", "/v1/model") == everyone
    assert cluster.answering("GET", "/v1/entries") == everyone
    assert cluster.answering("GET", "/v1/entries/0/thumbnail") == everyone

    taught = [httpx.post(f"{cluster.url}/v1/entries?label=mauve", content=ASKED, headers=ADMIN | PNG) for _ in range(6)]
    assert {answer.status_code for answer in taught} == {201}
    ids = [answer.json()["entries"][0]["id"] for answer in taught]
    for entry in ids:
        relabelled = httpx.patch(f"{cluster.url}/v1/entries/{entry}", json={"label": "red"}, headers=ADMIN)
        assert relabelled.status_code == 200, relabelled.text
        assert httpx.delete(f"{cluster.url}/v1/entries/{entry}", headers=ADMIN).is_success
    changing = [line for line in cluster.lines() if line["method"] != "GET" and line["path"] not in READING]
    assert len(changing) == 18
    assert {line["servers"] for line in changing} == {primary}

    assert cluster.answering("GET", "/v1/admin/jobs", headers=ADMIN) == {primary}
    assert cluster.answering("GET", "/v1/%61dmin/generations", headers=ADMIN) == {primary}
    assert cluster.answering("GET", "/metrics") == {primary}


def test_a_killed_server_loses_no_prediction_and_takes_part_again(cluster: Cluster, start: Any) -> None:
    lost = cluster.servers[2]
    address = urlsplit(lost.url)

    async def kill_under_load() -> Load:
        async with Load(cluster.url, ASKED, connections=8) as load:
            await asyncio.sleep(1)
            lost.process.kill()
            lost.process.wait()
            await asyncio.sleep(2)
        return load

    load = asyncio.run(kill_under_load())
    assert load.failures == []
    statuses = Counter(line["statuses"] for line in cluster.lines() if line["path"] == "/v1/predict")
    assert statuses["200"] > 50
    retried = [line for line in cluster.lines() if ", " in line["servers"]]
    assert retried, "nothing was under way, or tried anew, as the server was killed"
    assert all(line["servers"].split(", ")[0] == address.netloc for line in retried)

    start(port=address.port)
    until(
        lambda: address.netloc in cluster.answering("POST", "/v1/predict", content=ASKED, headers=PNG),
        20,
    )


def test_a_server_that_stops_is_left_without_a_lost_prediction(cluster: Cluster) -> None:
    async def stop_under_load() -> Load:
        async with Load(cluster.url, ASKED, connections=8) as load:
            await asyncio.sleep(1)
            assert await asyncio.to_thread(cluster.servers[1].stop) == 0
            await asyncio.sleep(1)
        return load

    assert asyncio.run(stop_under_load()).failures == []


def test_a_change_is_refused_and_never_sent_elsewhere_while_the_primary_is_lost(cluster: Cluster) -> None:
    primary = cluster.servers[0]
    primary.process.kill()
    primary.process.wait()
    before = len(cluster.lines())
    for method, path in (("POST", "/v1/entries?label=red"), ("DELETE", "/v1/entries/0"), ("POST", "/v1/admin/rebuild")):
        refused = httpx.request(method, f"{cluster.url}{path}", headers=ADMIN | PNG)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "2"
        assert refused.json()["type"] == "urn:secondlook:problem:not-ready"
    assert httpx.post(f"{cluster.url}/v1/predict", content=ASKED, headers=PNG).status_code == 200
    until(lambda: len(cluster.lines()) >= before + 4, 5)
    tried = {line["servers"] for line in cluster.lines()[before:] if line["path"] != "/v1/predict"}
    assert tried == set(addresses([primary]))


def test_ids_and_traces_pass_and_the_limits_are_the_services_own(
    start: Callable[..., Server], balance: Callable[..., Cluster]
) -> None:
    cluster = balance([start(log="json")])
    (server,) = cluster.servers
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    named = httpx.get(f"{cluster.url}/v1/model", headers={"X-Request-ID": "mine-1", "traceparent": trace})
    assert named.headers["x-request-id"] == "mine-1"
    unnamed = httpx.get(f"{cluster.url}/v1/model")
    until(lambda: cluster.lines()[-1]["id"] == unnamed.headers["x-request-id"], 5)
    ours = next(line for line in cluster.lines() if line["id"] == "mine-1")
    assert ours["traceparent"] == trace
    theirs = [line for line in server.log.read_text().splitlines() if "mine-1" in line]
    assert len(theirs) == 1
    assert trace.split("-")[1] in theirs[0]

    limit = Settings.model_fields["max_request_bytes"].default
    too_large = httpx.post(f"{cluster.url}/v1/predict", content=bytes(limit + 1), headers=PNG)
    assert too_large.status_code == 413
    assert too_large.json()["type"] == "urn:secondlook:problem:too-many-bytes"
    # As large as a request may be, but not as large as one image: the server says so.
    sent = httpx.post(f"{cluster.url}/v1/predict", content=bytes(limit), headers=PNG, timeout=60)
    assert sent.status_code == 413
    assert "16,777,216" in sent.json()["detail"]


def test_it_runs_unprivileged_and_with_a_read_only_root(
    start: Callable[..., Server], balance: Callable[..., Cluster]
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("a mount namespace is not permitted here")
    shut = (
        "mount -t tmpfs -o mode=1777 tmpfs PREFIX; mount -o remount,bind,ro /;"
        f' exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs --bounding-set=-all "$@"'
    )
    cluster = balance([start()], "unshare", "--mount", "sh", "-ec", shut, "sh")
    assert httpx.post(f"{cluster.url}/v1/predict", content=ASKED, headers=PNG).status_code == 200
    # More than fits in memory is put down below the prefix.
    spilled = httpx.post(f"{cluster.url}/v1/predict", content=bytes(3 << 20), headers=PNG)
    assert spilled.json()["type"] == "urn:secondlook:problem:undecodable-image"
