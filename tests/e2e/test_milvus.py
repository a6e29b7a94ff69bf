"""Several servers on one Milvus: a primary and its replicas, as users have them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from secondlook.model.stores.milvus_server import Milvus
from secondlook.model.stores.milvus_store import collection_of
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.page import look as look_at_page
from tests.e2e.page import upload
from tests.heads_for_tests import headless_root, png, write_colours
from tests.images_for_tests import make_image
from tests.milvus_for_tests import MilvusProcess

pytestmark = pytest.mark.cluster

Serve = Callable[..., Server]
Visit = Callable[..., Any]
ADMIN = {"Authorization": f"Bearer {KEY}"}
NO_TIME = 2.0
"""Seconds: an answer without Milvus takes its time limit at most, and then next to none."""


@pytest.fixture
def cache(milvus: MilvusProcess, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings of a cache of this test's own; its collections are dropped after."""
    name = "t" + str(abs(hash(request.node.name)))[:12]
    yield {"milvus__address": milvus.address, "milvus__cache": name, "milvus__timeout_s": "1"}
    for collection in connect(milvus, name).call("list_collections"):
        if collection.startswith(name):
            clean_up(connect(milvus, name), collection)


def clean_up(connected: Milvus, collection: str) -> None:
    for alias in connected.call("list_aliases", collection)["aliases"]:
        connected.call("drop_alias", alias)
    connected.call("drop_collection", collection, timeout=30)


def connect(milvus: MilvusProcess, cache: str) -> Milvus:
    return milvus.connect(cache=cache, timeout_s=20)


def index(root: Path, cache: dict[str, str], *options: object) -> str:
    """A generation in Milvus, activated; its id."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    environment |= {f"SECONDLOOK_{name.upper()}": value for name, value in cache.items()}
    result = subprocess.run(
        [sys.executable, "-m", "secondlook", "index", *map(str, options), "--bundles", str(root)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[-1]


def look(server: Server, colour: str, query: str = "neighbors=3&top=5") -> dict[str, Any]:
    answer = httpx.post(
        f"{server.url}/v1/predict?{query}",
        content=make_image(colour, seed=7),
        headers={"Content-Type": "image/png"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body["predictions"][0] | {"generation": body["generation"]}


def answers(server: Server) -> str:
    return str(look(server, "red")["generation"])


def metric(server: Server, name: str) -> float:
    page = httpx.get(f"{server.url}/metrics").text
    return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split()[1])


@pytest.fixture
def root(tmp_path: Path, cache: dict[str, str], colour_folder: Path, tiny_bundle: Path) -> Path:
    """A root whose first generation is in FAISS, and the active one in Milvus."""
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    index(root, cache, colour_folder)
    return root


def test_a_primary_teaches_its_replicas_and_they_move_together(
    serve: Serve, root: Path, cache: dict[str, str], colour_folder: Path, milvus: MilvusProcess
) -> None:
    settings = cache | {"bundles": root, "admin_key": KEY, "milvus__grace_s": "1", "data": colour_folder.parent}
    primary = serve(**settings)
    replicas = [serve(**settings, replica="true") for _ in range(2)]
    everyone = [primary, *replicas]
    first = answers(primary)
    assert [answers(replica) for replica in replicas] == [first, first]
    assert not (root / first / "keys.faiss").exists()
    told = httpx.get(f"{primary.url}/v1/model").json()
    assert (told["store"]["kind"], told["store"]["factory"]) == ("milvus", "FLAT")

    # Teach, relabel and remove at the primary; replicas do not have the journal.
    taught = httpx.post(
        f"{primary.url}/v1/entries?label=striped",
        content=make_image("red", seed=7),
        headers=ADMIN | {"Content-Type": "image/png"},
        timeout=30,
    )
    assert taught.status_code == 201, taught.text
    number = taught.json()["entries"][0]["id"]
    for path, body in (("/v1/entries/1", {"label": "spotted"}), ("/v1/entries/2", None)):
        method = "PATCH" if body else "DELETE"
        assert httpx.request(method, primary.url + path, json=body, headers=ADMIN).is_success

    def told(url: str) -> dict[str, Any]:
        # Less the calibration, which each server makes anew for itself, behind its answers, and who may be taught.
        own = {"calibration", "teachable", "why_not_teachable"}
        return {name: said for name, said in httpx.get(f"{url}/v1/model").json().items() if name not in own}

    wanted = told(primary.url)
    assert httpx.get(f"{primary.url}/v1/model").json()["teachable"]
    for replica in replicas:
        assert "primary" in httpx.get(f"{replica.url}/v1/model").json()["why_not_teachable"]
        until(lambda url=replica.url: told(url) == wanted)
        near = look(replica, "red")["neighbors"]
        assert (near[0]["id"], near[0]["label"]) == (number, "striped")
        until(lambda one=replica: look(one, "red") == look(primary, "red"))
        assert httpx.get(f"{replica.url}/v1/entries/2").status_code == 404
        refused = httpx.post(f"{replica.url}/v1/entries?label=x", content=b"", headers=ADMIN)
        assert (refused.status_code, "primary" in refused.json()["detail"]) == (409, True)
        assert httpx.post(f"{replica.url}/v1/admin/rebuild", json={}, headers=ADMIN).status_code == 409
    assert httpx.delete(f"{primary.url}/v1/entries/{number}", headers=ADMIN).is_success
    for replica in replicas:
        until(lambda one=replica: look(one, "red")["neighbors"][0]["id"] != number)

    # A rebuild at the primary moves all; going back does too.
    started = httpx.post(f"{primary.url}/v1/admin/rebuild", json={"dataset": colour_folder.name}, headers=ADMIN)
    assert started.status_code == 202, started.text
    until(lambda: answers(primary) != first, 120)
    second = answers(primary)
    for replica in replicas:
        until(lambda one=replica: answers(one) == second, 15)
    assert httpx.post(f"{primary.url}/v1/admin/generations/{first}/activate", headers=ADMIN).is_success
    for replica in replicas:
        until(lambda one=replica: answers(one) == first, 15)

    # A generation that is removed takes its collection with it, a while after.
    connected = connect(milvus, cache["milvus__cache"])
    assert collection_of(cache["milvus__cache"], second) in connected.call("list_collections")
    for server in everyone:
        assert metric(server, "secondlook_store_away") == 0
    assert httpx.post(f"{primary.url}/v1/admin/generations/{second}/activate", headers=ADMIN).is_success
    for server in everyone:
        until(lambda one=server: answers(one) == second, 15)
        assert "ERROR" not in server.log.read_text()


def test_the_network_answers_alone_while_milvus_is_away(
    serve: Serve,
    root: Path,
    cache: dict[str, str],
    milvus: MilvusProcess,
    visit: Visit,
    figures: Callable[[str], None],
) -> None:
    alone = serve(**cache, bundles=root)
    refusing = serve(**cache, bundles=root, replica="true", milvus__when_away="refuse")
    before = look(alone, "green", "top=3&votes=3&coverage=0.9&abstain=true&neighbors=2")
    assert before["cache"] is not None
    page = visit(alone)
    milvus.pause()
    try:
        times = []
        for _ in range(20):
            start = time.monotonic()
            said = look(alone, "green", "top=3&votes=3&coverage=0.9&abstain=true&neighbors=2")
            times.append(time.monotonic() - start)
            assert (said["cache"], said["novelty"], said["credibility"], said["prediction_set"]) == (None,) * 4
            assert (said["abstained"], said["neighbors"], said["votes"]["similarities"]) == (None, [], [])
            assert [score["probability"] for score in said["top"]] == [score["network"] for score in said["top"]]
        assert times[0] < NO_TIME
        assert sorted(times)[10] < NO_TIME / 4
        refused = httpx.post(
            f"{refusing.url}/v1/predict", content=make_image("red"), headers={"Content-Type": "image/png"}
        )
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        two = [("file", (f"{i}.png", make_image("red"), "image/png")) for i in range(2)]
        assert httpx.post(f"{refusing.url}/v1/predict", files=two).status_code == 503
        assert milvus.address.removeprefix("http://") not in refused.text
        assert httpx.get(f"{refusing.url}/readyz").status_code == 503
        assert httpx.get(f"{alone.url}/readyz").status_code == 200
        assert metric(alone, "secondlook_store_away") == 1
        assert metric(alone, "secondlook_answers_without_cache_total") == 20
        (card,) = look_at_page(page, upload("green.png", make_image("green", seed=7)))
        expect(card).to_contain_text("The cache cannot be asked now: the network answers alone.")
        expect(card.get_by_role("heading", level=3)).to_have_text(said["label"])
    finally:
        milvus.resume()
    start = time.monotonic()
    until(lambda: look(alone, "green")["cache"] is not None)
    back = time.monotonic() - start
    assert look(alone, "green", "top=3&votes=3&coverage=0.9&abstain=true&neighbors=2") == before
    until(lambda: httpx.get(f"{refusing.url}/readyz").status_code == 200)
    figures(
        f"Milvus stopped: the first answer after {1000 * times[0]:.0f} ms, then p50 {1000 * sorted(times)[10]:.0f} ms, "
        f"all of the network alone; back {1000 * back:.0f} ms after Milvus was"
    )


def test_milvus_is_killed_and_comes_back(
    serve: Serve, root: Path, cache: dict[str, str], milvus: MilvusProcess, figures: Callable[[str], None]
) -> None:
    server = serve(**cache, bundles=root)
    before = look(server, "blue")
    milvus.kill()
    try:
        assert look(server, "blue")["cache"] is None
        # A server that starts now answers too.
        late = serve(**cache, bundles=root, replica="true")
        assert look(late, "blue")["cache"] is None
    finally:
        milvus.start()
    start = time.monotonic()
    until(lambda: look(server, "blue")["cache"] is not None, 120)
    figures(
        f"Milvus killed and started: the cache votes again {time.monotonic() - start:.1f} s after it says it is well"
    )
    until(lambda: look(late, "blue")["cache"] is not None)
    assert look(server, "blue") == look(late, "blue") == before


def test_an_alias_that_someone_else_moved_is_told_and_changes_nothing(
    serve: Serve, root: Path, cache: dict[str, str], milvus: MilvusProcess
) -> None:
    server = serve(**cache, bundles=root, admin_key=KEY)
    own, name = answers(server), cache["milvus__cache"]
    connected = connect(milvus, name)
    connected.run(lambda client: client.create_collection(f"{name}_of_others", dimension=8))
    connected.call("alter_alias", f"{name}_of_others", name)
    until(lambda: "which is no generation of this cache" in server.log.read_text())
    assert look(server, "red")["generation"] == own
    assert look(server, "red")["cache"] is not None
    assert httpx.post(f"{server.url}/v1/admin/generations/{own}/activate", headers=ADMIN).is_success
    assert connected.call("describe_alias", name)["collection_name"] == collection_of(name, own)


def test_without_a_head_nothing_answers_while_milvus_is_away(
    serve: Serve, tmp_path: Path, cache: dict[str, str], milvus: MilvusProcess
) -> None:
    folder = write_colours(tmp_path / "five")
    root = headless_root(tmp_path / "bundles", folder)
    index(root, cache, folder)
    server = serve(**cache, bundles=root, milvus__when_away="network")

    def ask() -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return httpx.post(f"{server.url}/v1/predict", content=png("red", 44), headers=headers, timeout=30)

    assert ask().json()["predictions"][0]["label"] == "red"
    milvus.pause()
    try:
        refused = ask()
        assert refused.status_code == 503, refused.text
        assert milvus.address.removeprefix("http://") not in refused.text
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        again = serve(**cache, bundles=root)  # started while it is away: ready when it is back
        assert httpx.get(f"{again.url}/readyz").status_code == 503
    finally:
        milvus.resume()
    for one in (server, again):
        until(lambda one=one: httpx.get(f"{one.url}/readyz").status_code == 200)
    assert ask().json()["predictions"][0]["label"] == "red"
    assert metric(server, "secondlook_answers_without_cache_total") == 0
