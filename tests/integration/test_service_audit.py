"""Labels that their neighbours doubt, looked for by a job and decided over HTTP, each once."""

from pathlib import Path
from typing import Any

import pytest

from secondlook.model.bundles.root import active_generation
from secondlook.model.stores.added_keys import added_id
from tests.images_for_tests import make_image
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    add_generation,
    create_app,
    eventually,
    model,
    open_predictor,
    problem,
    serving,
    settings,
    teach,
)


def audited(call: Call) -> Any:
    """What a new audit found."""
    started = call("POST", "/v1/admin/audit", headers=ADMIN)
    assert started.status_code == 202, started.text
    where = started.headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    job = call("GET", where, headers=ADMIN).json()
    assert (job["kind"], job["state"], job["generation"]) == ("audit", "succeeded", model(call)["generation"]), job
    told = suspects(call)
    assert told["job"] == job["id"]
    assert job["found"] == f"neighbours doubt the labels of {told['doubted']} of {told['images']} images"
    return told


def suspects(call: Call, query: str = "") -> Any:
    return call("GET", f"/v1/admin/audit{query}", headers=ADMIN).json()


def ids(told: Any) -> list[int]:
    return [one["entry"]["id"] for one in told["suspects"]]


def entry_of(call: Call, label: str) -> int:
    found: int = call("GET", f"/v1/entries?label={label}&limit=1").json()["entries"][0]["id"]
    return found


@pytest.fixture
def wrong(call: Call) -> list[int]:
    """Ids of entries of a server that have wrong labels: two of its own, one that was taught."""
    red, blue = entry_of(call, "red"), entry_of(call, "blue")
    for entry in (red, blue):
        assert call("PATCH", f"/v1/entries/{entry}", json={"label": "green"}, headers=ADMIN).status_code == 200
    assert teach(call, "blue", make_image("red", (40, 36), seed=77)).status_code == 201
    return [red, blue, added_id(1)]


def test_nothing_is_told_before_an_audit(call: Call) -> None:
    told = suspects(call)
    assert (told["job"], told["suspects"], told["open"], told["next"]) == (None, [], 0, None)
    assert told["generation"] == model(call)["generation"]


def test_suspects_are_told_with_their_neighbours_and_decided_each_in_its_way(call: Call, wrong: list[int]) -> None:
    told = audited(call)
    assert (told["images"], told["change"], told["decided"]) == (61, 3, {"right": 0, "relabelled": 0, "removed": 0})
    found = {one["entry"]["id"]: one for one in told["suspects"]}
    assert set(wrong) <= set(found)
    assert told["open"] == told["kept"] == told["doubted"] == len(found)
    red, blue, taught = wrong
    assert (found[red]["suggested"], found[blue]["suggested"], found[taught]["suggested"]) == ("red", "blue", "red")
    assert found[taught]["entry"]["taught"] is True
    assert [one["place"] for one in told["suspects"]] == list(range(len(found)))
    scores = [one["score"] for one in told["suspects"]]
    assert scores == sorted(scores, reverse=True)
    neighbors = found[red]["neighbors"]
    assert 0 < sum(near["weight"] for near in neighbors) <= 1
    assert red not in [near["id"] for near in neighbors]
    assert neighbors[0]["label"] == call("GET", f"/v1/entries/{neighbors[0]['id']}").json()["label"]

    generation = told["generation"]
    confirmed = call(
        "POST", f"/v1/entries/{red}/confirm?generation={generation}", json={"label": "green"}, headers=ADMIN
    )
    assert (confirmed.status_code, confirmed.json()["label"]) == (200, "green")
    call("PATCH", f"/v1/entries/{blue}", json={"label": "blue"}, headers=ADMIN)
    call("DELETE", f"/v1/entries/{taught}", headers=ADMIN)
    now = suspects(call)
    assert not set(wrong) & set(ids(now))
    assert now["decided"] == {"right": 1, "relabelled": 1, "removed": 1}
    assert now["open"] == told["open"] - 3
    # Nor by an audit that begins now.
    again = audited(call)
    assert not set(wrong) & set(ids(again))
    assert again["images"] == 60


def test_each_decision_can_be_taken_back(call: Call, wrong: list[int]) -> None:
    audited(call)
    red, blue, taught = wrong
    for entry in (red, taught):
        label = "green" if entry == red else "blue"
        assert call("POST", f"/v1/entries/{entry}/confirm", json={"label": label}, headers=ADMIN).status_code == 200
        assert entry not in ids(suspects(call))
        assert call("DELETE", f"/v1/entries/{entry}/confirm", headers=ADMIN).status_code == 204
        assert entry in ids(suspects(call))
    call("DELETE", f"/v1/entries/{blue}", headers=ADMIN)
    assert blue not in ids(suspects(call))
    back = call("POST", f"/v1/entries/{blue}/restore", json={"label": "green"}, headers=ADMIN)
    assert (back.json()["label"], back.json()["was"]) == ("green", "blue")
    assert blue in ids(suspects(call))
    # It is there already: nothing happens.
    assert call("POST", f"/v1/entries/{blue}/restore", json={"label": "red"}, headers=ADMIN).json()["label"] == "green"
    # The picture of a taught image is gone with it.
    call("DELETE", f"/v1/entries/{taught}", headers=ADMIN)
    problem(call("POST", f"/v1/entries/{taught}/restore", json={"label": "blue"}, headers=ADMIN), 404, "not-found")
    actions = [change["action"] for change in call("GET", "/v1/admin/changes?limit=7", headers=ADMIN).json()]
    assert actions == ["removed", "relabelled", "removed", "unconfirmed", "confirmed", "unconfirmed", "confirmed"]


def test_what_was_decided_is_not_asked_again_after_a_rebuild(call: Call, wrong: list[int]) -> None:
    told = audited(call)
    for one in told["suspects"]:
        label = {"label": one["entry"]["label"]}
        call("POST", f"/v1/entries/{one['entry']['id']}/confirm", json=label, headers=ADMIN)
    assert suspects(call)["open"] == 0
    body = {"dataset": "colours", "force": True}
    where = call("POST", "/v1/admin/rebuild", json=body, headers=ADMIN).headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    assert model(call)["generation"] != told["generation"]
    # Ids are others now, and so the old audit is no audit of this.
    assert suspects(call)["job"] is None
    again = audited(call)
    sources = {one["entry"]["source"] for one in told["suspects"]}
    assert "taught:1" in sources
    assert not sources & {one["entry"]["source"] for one in again["suspects"]}


def test_pages_of_suspects_follow_each_other(call: Call, wrong: list[int]) -> None:
    whole = ids(audited(call))
    listed: list[int] = []
    after: int | None = -1
    while after is not None:
        page = suspects(call, f"?limit=2&after={after}")
        listed += ids(page)
        after = page["next"]
    assert listed == whole
    for query in ("?limit=0", "?limit=101", "?after=-2", "?before=3"):
        problem(call("GET", f"/v1/admin/audit{query}", headers=ADMIN), 422, "invalid-parameter")


def test_a_confirmation_is_of_the_label_that_was_seen(call: Call, wrong: list[int]) -> None:
    red = wrong[0]
    path = f"/v1/entries/{red}/confirm"
    detail = problem(call("POST", path, json={"label": "blue"}, headers=ADMIN), 422, "invalid-parameter")
    assert "green" in detail
    problem(call("POST", path, json={}, headers=ADMIN), 422, "invalid-parameter")
    problem(call("POST", path, json={"label": "green", "by": "me"}, headers=ADMIN), 422, "invalid-parameter")
    problem(call("POST", path, json={"label": "green"}), 401, "key-missing")
    problem(call("POST", f"{path}?generation=x", json={"label": "green"}, headers=ADMIN), 409, "generation-changed")
    problem(call("POST", "/v1/entries/999/confirm", json={"label": "green"}, headers=ADMIN), 404, "not-found")
    problem(call("POST", "/v1/entries/999/restore", json={"label": "green"}, headers=ADMIN), 404, "not-found")
    problem(call("DELETE", "/v1/entries/999/confirm", headers=ADMIN), 404, "not-found")
    call("POST", path, json={"label": "green"}, headers=ADMIN)
    # It has another label now, and may be doubted as that.
    call("PATCH", f"/v1/entries/{red}", json={"label": "blue"}, headers=ADMIN)
    assert red in ids(audited(call))


def test_an_audit_is_a_job_among_others(call: Call, root: Path) -> None:
    where = call("POST", "/v1/admin/audit", headers=ADMIN).headers["location"]
    problem(call("POST", "/v1/admin/audit", headers=ADMIN), 409, "rebuild-running")
    problem(call("POST", "/v1/admin/rebuild", headers=ADMIN), 409, "rebuild-running")
    cancelled = call("DELETE", where, headers=ADMIN).json()
    assert cancelled["state"] in ("cancelled", "succeeded")
    first = audited(call)
    assert [job["kind"] for job in call("GET", "/v1/admin/jobs", headers=ADMIN).json()] == ["audit", "audit"]
    # Another server on the root knows of it, and one that answers with another generation does not.
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as other:
        assert suspects(other) == first
    new = add_generation(root)
    assert call("POST", f"/v1/admin/generations/{new}/activate", headers=ADMIN).status_code == 200
    assert suspects(call)["job"] is None
    assert active_generation(root) == new


def test_the_default_bundle_is_not_audited(tiny_bundle: Path) -> None:
    with serving(create_app(settings(admin_key=KEY), predictor=open_predictor(tiny_bundle))) as call:
        problem(call("POST", "/v1/admin/audit", headers=ADMIN), 409, "bundles-read-only")
        assert suspects(call)["job"] is None
