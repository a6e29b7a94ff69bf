"""Teaching, relabelling and removing over HTTP: the next answer knows of it, rebuilds keep it, nothing is half done."""

import json
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.journal import JOURNAL
from secondlook.model.stores.added_keys import FIRST_ID, added_id
from tests.images_for_tests import make_image, striped
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    add_generation,
    create_app,
    look,
    model,
    open_predictor,
    problem,
    serving,
    settings,
    teach,
)

NEW = "20990101T000000Z-abcd"


def test_a_new_class_is_known_to_the_next_answer(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model(call)
    response = teach(call, "striped", striped(1), striped(2))
    assert response.status_code == 201
    made = response.json()
    assert (made["label"], made["index"], made["is_new_class"], made["change"]) == ("striped", 3, True, 2)
    assert [entry["id"] for entry in made["entries"]] == [added_id(1), added_id(2)]
    assert made["entries"][0]["filename"] == "0.png"
    assert made["entries"][0]["before"]["label"] in before["classes"]
    said = look(call, striped(1), "neighbors=3&top=10&lam=1&k=1")
    assert (said["label"], said["index"]) == ("striped", 3)
    assert said["neighbors"][0] | {"weight": 0} == {
        "id": added_id(1),
        "label": "striped",
        "similarity": pytest.approx(1, abs=1e-5),
        "weight": 0,
        "source": "taught:1",
        "mirrored": False,
        "taught": True,
        "thumbnail": f"/v1/entries/{added_id(1)}/thumbnail",
    }
    scores = {score["label"]: score for score in said["top"]}
    assert scores["striped"]["network"] == 0
    assert sum(score["probability"] for score in said["top"]) == pytest.approx(1, abs=1e-5)
    after = model(call)
    assert after["classes"] == [*before["classes"], "striped"]
    assert after["network_classes"] == 3
    assert after["counts"] == [*before["counts"], 2]
    assert after["entries"] == before["entries"] + 2
    assert after["taught"] == {"images": 2, "relabelled": 0, "removed": 0, "change": 2, "suggests_rebuild": False}
    monkeypatch.setattr("secondlook.service.schemas.SUGGEST_REBUILD", 2)
    assert model(call)["taught"]["suggests_rebuild"] is True
    picture = call("GET", f"/v1/entries/{added_id(1)}/thumbnail")
    assert picture.headers["content-type"] == "image/png"
    assert look(call, picture.content)["neighbors"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_raw_body_is_taught_too(call: Call) -> None:
    headers = ADMIN | {"Content-Type": "image/png"}
    response = call("POST", "/v1/entries?label=red", content=make_image("blue", seed=7), headers=headers)
    assert response.status_code == 201
    assert response.json()["is_new_class"] is False
    assert look(call, make_image("blue", seed=7), "lam=1&k=1")["label"] == "red"


def test_an_entry_is_relabelled_and_removed_with_its_votes(call: Call) -> None:
    image = make_image("red", seed=3)
    nearest = look(call, image, "neighbors=1")["neighbors"][0]
    path = f"/v1/entries/{nearest['id']}"
    generation = model(call)["generation"]
    changed = call("PATCH", f"{path}?generation={generation}", json={"label": "blue"}, headers=ADMIN)
    assert changed.status_code == 200
    assert (changed.json()["label"], changed.json()["was"]) == ("blue", "red")
    assert call("GET", path).json() == changed.json()
    assert look(call, image, "lam=1&k=1")["label"] == "blue"
    assert model(call)["taught"]["relabelled"] == 1
    back = call("PATCH", path, json={"label": "red"}, headers=ADMIN).json()
    assert (back["label"], back["was"]) == ("red", None)
    assert model(call)["taught"]["relabelled"] == 0
    assert call("DELETE", path, headers=ADMIN).status_code == 204
    problem(call("GET", path), 404, "not-found")
    problem(call("DELETE", path, headers=ADMIN), 404, "not-found")
    problem(call("PATCH", path, json={"label": "blue"}, headers=ADMIN), 404, "not-found")
    assert nearest["id"] not in [n["id"] for n in look(call, image, "neighbors=50")["neighbors"]]
    changes = call("GET", "/v1/admin/changes", headers=ADMIN).json()
    assert [(c["action"], c["label"], c["was"], c["key"]) for c in changes] == [
        ("removed", None, "red", "SECONDLOOK_ADMIN_KEY"),
        ("relabelled", "red", "blue", "SECONDLOOK_ADMIN_KEY"),
        ("relabelled", "blue", "red", "SECONDLOOK_ADMIN_KEY"),
    ]
    assert call("GET", "/v1/admin/changes?before=3&limit=1", headers=ADMIN).json() == changes[1:2]


def test_what_was_taught_is_relabelled_and_removed_too(call: Call) -> None:
    entry = teach(call, "striped", striped()).json()["entries"][0]["id"]
    assert call("PATCH", f"/v1/entries/{entry}", json={"label": "dotted"}, headers=ADMIN).json()["label"] == "dotted"
    assert model(call)["classes"][3:] == ["dotted"]
    assert call("DELETE", f"/v1/entries/{entry}", headers=ADMIN).status_code == 204
    assert len(model(call)["classes"]) == 3
    problem(call("GET", f"/v1/entries/{entry}/thumbnail"), 404, "not-found")
    problem(call("GET", f"/v1/entries/{FIRST_ID + 2**40}"), 404, "not-found")


def test_entries_are_listed_as_they_vote(call: Call) -> None:
    teach(call, "striped", striped(1), striped(2))
    first = call("GET", "/v1/entries?label=red&limit=2").json()
    assert first["total"] == 20
    call("PATCH", f"/v1/entries/{first['entries'][0]['id']}", json={"label": "striped"}, headers=ADMIN)
    call("DELETE", f"/v1/entries/{first['entries'][1]['id']}", headers=ADMIN)
    assert call("GET", "/v1/entries?label=red").json()["total"] == 18
    listed: list[int] = []
    after = -1
    while after is not None:
        page = call("GET", f"/v1/entries?label=striped&limit=2&after={after}").json()
        listed += [entry["id"] for entry in page["entries"]]
        after = page["next"]
    assert listed == [first["entries"][0]["id"], added_id(1), added_id(2)]
    assert call("GET", "/v1/entries?taught=true").json()["total"] == 2
    assert call("GET", "/v1/entries?taught=false").json()["total"] == 59
    problem(call("GET", "/v1/entries?label=nothing"), 422, "invalid-parameter")
    problem(call("GET", "/v1/entries?limit=0"), 422, "invalid-parameter")


def test_one_bad_image_leaves_nothing_of_its_call(call: Call) -> None:
    detail = problem(teach(call, "striped", striped(), b"no image"), 400, "undecodable-image")
    assert detail.startswith("1.png: ")
    assert model(call)["taught"]["change"] == 0
    response = teach(call, "striped", striped(), b"no image", params={"partial": "true"})
    assert response.status_code == 201
    kept, refused = response.json()["entries"]
    assert kept["id"] == added_id(1)
    assert refused["type"].endswith("undecodable-image")
    problem(teach(call, "striped", b"no image", params={"partial": "true"}), 400, "undecodable-image")


@pytest.mark.parametrize("label", ["", " ", "x" * 10_000, "x" * 20_000, "\u202eturned", "line\nbreak", None])
def test_a_label_that_names_nothing_is_refused(call: Call, label: str | None) -> None:
    assert problem(teach(call, label, striped()), 422, "invalid-parameter").startswith("label: ")
    assert not model(call)["taught"]["change"]


@pytest.mark.parametrize("label", [" red", "red\t", "\u00a0red\u200b"])
def test_a_label_is_the_known_one_however_it_is_spaced(call: Call, label: str) -> None:
    taught = teach(call, label, striped())
    assert taught.status_code == 201
    assert taught.json()["label"] == "red"
    assert not taught.json()["is_new_class"]


def test_a_new_label_is_kept_as_it_is_written_best(call: Call) -> None:
    assert teach(call, "cafe\u0301  cre\u0300me", striped()).json()["label"] == "caf\u00e9 cr\u00e8me"
    assert "caf\u00e9 cr\u00e8me" in call("GET", "/v1/model").json()["classes"]


def test_white_space_inside_a_label_is_mended_wherever_it_is_given(call: Call) -> None:
    assert teach(call, "fire engine", striped(1)).json()["is_new_class"]
    again = teach(call, " fire \t engine", striped(2)).json()
    assert (again["label"], again["is_new_class"]) == ("fire engine", False)
    entry, other = again["entries"][0]["id"], teach(call, "red", striped(3)).json()["entries"][0]["id"]
    for label, kept in (("red  engine", "red engine"), ("fire   engine", "fire engine")):
        changed = call("PATCH", f"/v1/entries/{other}", json={"label": label}, headers=ADMIN)
        assert (changed.status_code, changed.json()["label"]) == (200, kept)
    listed = call("GET", "/v1/entries?label=fire%20%20engine").json()
    assert {one["id"] for one in listed["entries"]} >= {entry, other}


@pytest.mark.parametrize("label", ["Red", "RED ", "r\u034fed"])
def test_a_label_like_a_known_one_names_that(call: Call, label: str) -> None:
    response = teach(call, label, striped())
    problem(response, 409, "label-like-another")
    assert response.json()["known"] == "red"
    entry = call("GET", "/v1/entries?label=blue&limit=1").json()["entries"][0]["id"]
    response = call("PATCH", f"/v1/entries/{entry}", json={"label": label}, headers=ADMIN)
    problem(response, 409, "label-like-another")
    assert not model(call)["taught"]["change"]


def test_two_labels_are_one_too_many(call: Call) -> None:
    problem(teach(call, "striped", striped(), params={"label": "dotted"}), 422, "invalid-parameter")


def test_teaching_needs_the_key(call: Call) -> None:
    for method, path in (("POST", "/v1/entries"), ("PATCH", "/v1/entries/1"), ("DELETE", "/v1/entries/1")):
        problem(call(method, path), 401, "key-missing")
        problem(call(method, path, headers={"Authorization": "Bearer wrong"}), 403, "key-refused")
    problem(call("GET", "/v1/admin/changes"), 401, "key-missing")


def test_the_default_bundle_is_taught_nothing(tiny_bundle: Path) -> None:
    with serving(create_app(settings(admin_key=KEY), predictor=open_predictor(tiny_bundle))) as call:
        problem(teach(call, "red", striped()), 409, "bundles-read-only")
        problem(call("DELETE", "/v1/entries/1", headers=ADMIN), 409, "bundles-read-only")
        assert call("GET", "/v1/admin/changes", headers=ADMIN).json() == []
    assert not (tiny_bundle / JOURNAL).exists()


def test_a_repeated_call_is_done_once(call: Call) -> None:
    headers = {"Idempotency-Key": "one"}
    first = teach(call, "striped", striped(), headers=headers)
    again = teach(call, "striped", striped(), headers=headers)
    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert model(call)["taught"]["images"] == 1
    problem(teach(call, "striped", striped(1), headers=headers), 422, "idempotency-key-reused")
    problem(teach(call, "dotted", striped(), headers=headers), 422, "idempotency-key-reused")
    assert model(call)["taught"]["images"] == 1


def test_there_are_limits(call: Call) -> None:
    assert teach(call, "striped", *(striped(i) for i in range(8))).status_code == 201
    assert "8" in problem(teach(call, "striped", striped(9)), 409, "too-many-taught")
    assert model(call)["taught"]["images"] == 8


def test_an_id_of_another_generation_is_not_taken_for_one_of_this(call: Call, root: Path) -> None:
    old = model(call)["generation"]
    add_generation(root, NEW)
    call("POST", f"/v1/admin/generations/{NEW}/activate", headers=ADMIN)
    for method, body in (("PATCH", {"label": "blue"}), ("DELETE", None)):
        response = call(method, f"/v1/entries/1?generation={old}", json=body, headers=ADMIN)
        problem(response, 409, "generation-changed")
    assert call("DELETE", f"/v1/entries/1?generation={NEW}", headers=ADMIN).status_code == 204


def test_answers_stay_json(call: Call) -> None:
    response = teach(call, "naïve ☃", striped())
    assert json.loads(response.content)["label"] == "naïve ☃"
    assert model(call)["classes"][3] == "naïve ☃"


@pytest.mark.parametrize("k", ["5", "all"])
def test_what_is_told_of_the_vote_adds_up_to_the_answer(call: Call, k: str) -> None:
    teach(call, "striped", striped(1), striped(2))
    told = model(call)
    assert told["class_weights"] == [1, 1, 1, 10]
    said = look(call, striped(3), f"neighbors=50&votes=62&top=10&theta=20&k={k}")
    cache = {score["label"]: score["cache"] for score in said["top"]}
    votes = said["votes"]
    raw = np.exp(20 * (np.array(votes["similarities"]) - votes["similarities"][0]))[: 62 if k == "all" else 5]
    by_class = np.bincount(votes["indices"][: len(raw)], raw, minlength=4) * told["class_weights"]
    for label, share in zip(told["classes"], by_class / by_class.sum(), strict=True):
        assert cache[label] == pytest.approx(share, abs=1e-4)
    shares = dict.fromkeys(told["classes"], 0.0)
    for neighbor in said["neighbors"]:
        shares[neighbor["label"]] += neighbor["weight"]
    if k == "5":
        assert shares == pytest.approx(cache, abs=1e-4)
    else:
        assert sum(shares.values()) <= 1 + 1e-6


@pytest.mark.parametrize("k", ["5", "all"])
def test_the_network_answers_alone_where_every_entry_is_removed(call: Call, k: str) -> None:
    for number in range(60):
        assert call("DELETE", f"/v1/entries/{number}", headers=ADMIN).status_code == 204
    query = f"k={k}&lam=1&top=3&neighbors=5&votes=5&abstain=true&coverage=0.9"
    said = look(call, make_image("red", seed=4), query)
    assert [score["probability"] for score in said["top"]] == [score["network"] for score in said["top"]]
    assert said["novelty"]["is_novel"]
    assert (said["neighbors"], said["votes"]["similarities"]) == ([], [])


def test_counts_are_those_of_the_entries(call: Call, root: Path) -> None:
    teach(call, "striped", striped(1), striped(2))
    call("PATCH", "/v1/entries/3", json={"label": "striped"}, headers=ADMIN)
    call("PATCH", "/v1/entries/30", json={"label": "blue"}, headers=ADMIN)
    call("DELETE", "/v1/entries/45", headers=ADMIN)
    told = model(call)
    for label, count in zip(told["classes"], told["counts"], strict=True):
        assert call("GET", f"/v1/entries?label={label}").json()["total"] == count
    assert sum(told["counts"]) == told["entries"] == 61
