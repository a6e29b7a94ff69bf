"""Several workers that are taught at once: what one acknowledged, each of them answers with from then on."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from secondlook.model.journal import Journal
from secondlook.model.stores.added_keys import number_of
from tests.e2e.conftest import KEY, Server
from tests.e2e.test_switching import ADMIN
from tests.e2e.test_workers import to_each
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
PNG = {"Content-Type": "image/png"}
LABELS = ["red", "green", "moss", "ant"]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def teach(client: httpx.Client, label: str, seed: int, **headers: str) -> httpx.Response:
    content = make_image("red", seed=seed)
    return client.post("/v1/entries", params={"label": label}, content=content, headers=PNG | headers)


def entries(client: httpx.Client) -> dict[int, str]:
    """All that there are, by id."""
    found: dict[int, str] = {}
    after: int | None = -1
    while after is not None:
        page = client.get("/v1/entries", params={"after": after, "limit": 200}).json()
        found |= {entry["id"]: entry["label"] for entry in page["entries"]}
        after = page["next"]
    return found


def test_each_worker_answers_as_a_dictionary_of_what_was_acknowledged(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, admin_key=KEY, workers=3)
    chance, seeds = random.Random(0), iter(range(10**6))
    with to_each(server) as clients:
        now = entries(clients[0])
        generation = clients[0].get("/v1/model").json()["generation"]
        pictures: dict[int, int] = {}
        gone: set[int] = set()
        for _ in range(60):
            # Another one each time, which has heard nothing of what the last one did.
            one, *others = chance.sample(clients, 3)
            known = chance.choice([*chance.sample(sorted(now), 3), *pictures, *gone])
            path, action = f"/v1/entries/{known}", chance.choice(["teach", "relabel", "remove", "remove"])
            label = chance.choice(LABELS)
            if action == "teach":
                seed = next(seeds)
                made = teach(one, label, seed)
                assert made.status_code == 201
                known = made.json()["entries"][0]["id"]
                assert made.json()["is_new_class"] == (label not in {"red", "green", "blue", *now.values()})
                now[known], pictures[known] = label, seed
            elif action == "relabel":
                said = one.patch(path, json={"label": label}, params={"generation": generation})
                assert said.status_code == (200 if known in now else 404)
                assert known not in now or said.json()["label"] == label
                now |= {known: label} if known in now else {}
            else:
                assert one.delete(path).status_code == (204 if known in now else 404)
                gone |= {known} if now.pop(known, None) else set()
            for client in others:
                told = client.get(f"/v1/entries/{known}")
                assert told.status_code == (200 if known in now else 404)
                assert known not in now or told.json()["label"] == now[known]
                picture = client.get(f"/v1/entries/{known}/thumbnail")
                assert picture.status_code == (200 if known in now else 404)
            if known in pictures:
                content, query = make_image("red", seed=pictures[known]), "k=1&lam=1&neighbors=1"
                for client in others:
                    said = client.post(f"/v1/predict?{query}", content=content, headers=PNG).json()["predictions"][0]
                    nearest = said["neighbors"][0]["id"]
                    assert (nearest == known) == (known in now)
                    assert said["label"] == now[nearest]
        for client in clients:
            assert entries(client) == now
            told = client.get("/v1/model").json()
            counts = {label: count for label, count in zip(told["classes"], told["counts"], strict=True) if count}
            assert counts == Counter(now.values())


def test_of_calls_at_the_same_time_each_is_done_once_and_nothing_is_undone(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, admin_key=KEY, workers=2)
    with to_each(server) as clients, ThreadPoolExecutor(8) as pool:

        def at_once(call: Callable[[httpx.Client], httpx.Response], times: int = 4) -> list[httpx.Response]:
            return list(pool.map(call, [clients[i % 2] for i in range(times)]))

        for turn in range(6):
            # An Idempotency-Key that several send at once: one change, and one answer.
            key = {"Idempotency-Key": f"turn {turn}"}
            made = at_once(lambda client: teach(client, "moss", turn, **key))  # noqa: B023 - called at once
            assert [answer.status_code for answer in made] == [201] * 4
            assert len({answer.text for answer in made}) == 1
            assert sum("idempotent-replayed" not in answer.headers for answer in made) == 1
            for entry in (made[0].json()["entries"][0]["id"], 10 + turn):
                path = f"/v1/entries/{entry}"
                relabelled = at_once(lambda client: client.patch(path, json={"label": "ant"}))  # noqa: B023
                assert [answer.status_code for answer in relabelled] == [200] * 4
                removed = at_once(lambda client: client.delete(path))  # noqa: B023
                assert sorted(answer.status_code for answer in removed) == [204, 404, 404, 404]
                for client in clients:
                    assert client.get(path).status_code == 404
                    assert client.patch(path, json={"label": "red"}).status_code == 404
        trail = Counter((change.source, change.action) for change in Journal(root).changes(limit=1000))
        assert set(trail.values()) == {1}, "something was written twice"


def put_back(how: str, journal: Path, copy: Path) -> None:
    """Replace a journal by a copy of it, in a way in which people do."""
    if how == "cp":
        shutil.copy(copy, journal)
    elif how == "cp -p":
        shutil.copy2(copy, journal)
    elif how == "mv":
        shutil.copy(copy, journal.with_name("new"))
        journal.with_name("new").replace(journal)
    else:
        journal.unlink()
        shutil.copy(copy, journal)


def taught(client: httpx.Client) -> dict[int, str]:
    """Labels of taught images."""
    return {entry: label for entry, label in entries(client).items() if number_of(entry) is not None}


def test_a_journal_is_put_back_and_taken_away_under_running_workers(serve: Serve, root: Path, tmp_path: Path) -> None:
    server = serve(bundles=root, admin_key=KEY, workers=2)
    journal, copy = root / "taught.sqlite", tmp_path / "backup.sqlite"
    with to_each(server) as (one, two):
        first = teach(one, "moss", 1).json()["entries"][0]["id"]
        shutil.copy2(journal, copy)
        for how in ("cp", "cp -p", "mv", "rm; cp"):
            lost = teach(two, "fern", 2).json()["entries"][0]["id"]
            assert two.delete(f"/v1/entries/{first}").status_code == 204
            put_back(how, journal, copy)
            # As many changes as before, which are others.
            made = [teach(client, "ant", seed) for client, seed in ((two, 3), (one, 4))]
            assert [answer.status_code for answer in made] == [201, 201]
            kept = {first: "moss", **{answer.json()["entries"][0]["id"]: "ant" for answer in made}}
            assert how != "cp" or lost in kept, "the test is to have the same numbers again"
            for client in (one, two):
                assert taught(client) == kept, how
        away = tmp_path / "away.sqlite"
        shutil.move(journal, away)
        for client in (one, two):
            refused = teach(client, "bee", 5)
            assert refused.status_code == 503, refused.text
            assert refused.json()["type"] == "urn:secondlook:problem:not-kept"
            assert "taught.sqlite is gone: put it back" in refused.json()["detail"]
            assert client.delete("/v1/entries/3").status_code == 503
            assert taught(client) == kept, "what is known is not forgotten"
        shutil.move(away, journal)
        # What only one of the two knows is there all the same, where the other cannot look.
        known = teach(one, "ant", 6).json()["entries"][0]["id"]
        kept[known] = "ant"
        shutil.move(journal, away)
        for path in (f"/v1/entries/{known}", f"/v1/entries/{known}/thumbnail"):
            assert one.get(path).status_code in {200, 503}
            assert two.get(path).status_code in {200, 503}
            assert two.get(path.replace(str(known), str(known + 100))).status_code == 503
        shutil.move(away, journal)
        last = teach(two, "bee", 5).json()["entries"][0]["id"]
        kept[last] = "bee"
        assert taught(one) == taught(two) == kept
    server.process.kill()
    server.process.wait()
    server = serve(bundles=root, admin_key=KEY)
    with httpx.Client(base_url=server.url, headers=ADMIN) as client:
        assert taught(client) == kept, "what was acknowledged is not in the file"
