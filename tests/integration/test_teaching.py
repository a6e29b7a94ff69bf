"""Teaching, relabelling and removing over HTTP: the next answer knows of it, rebuilds keep it, nothing is half done."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.evaluation.evaluate import evaluate
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.added.catching_up import caught_up
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import activate, active_generation, generations
from secondlook.model.journal.added_keys import FIRST_ID, added_id
from secondlook.model.journal.file import JOURNAL
from secondlook.model.journal.journal import Journal, NewImage
from tests.images_for_tests import make_folder, make_image
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    add_generation,
    copy_root,
    create_app,
    eventually,
    files,
    open_predictor,
    problem,
    serving,
    settings,
)

NEW = "20990101T000000Z-abcd"
PURPLE = (150, 40, 160)


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_root(tiny_bundle, tmp_path / "bundles")


@pytest.fixture
def call(root: Path, colour_folder: Path) -> Iterator[Call]:
    with serving(create_app(settings(bundles=root, admin_key=KEY, data=colour_folder.parent, max_taught=8))) as call:
        yield call


def striped(seed: int = 0) -> bytes:
    """An image of a class that nobody was trained on."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 40, (32, 32, 3)).astype(np.uint8)
    pixels[:, ::4] += np.array(PURPLE, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def teach(call: Call, label: str | None, *contents: bytes, **options: Any) -> Any:
    data = {} if label is None else {"label": label}
    headers = ADMIN | options.pop("headers", {})
    sent = files(*((f"{i}.png", content) for i, content in enumerate(contents)))
    return call("POST", "/v1/entries", files=sent, data=data, headers=headers, **options)


def look(call: Call, content: bytes, query: str = "neighbors=3&top=10") -> Any:
    return call("POST", f"/v1/predict?{query}", files=files(("a.png", content))).json()["predictions"][0]


def model(call: Call) -> Any:
    return call("GET", "/v1/model").json()


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


def test_a_class_may_be_called_as_sources_of_taught_images_begin(tmp_path: Path) -> None:
    import torch

    from secondlook.indexer.embedding.encoders import FromNetwork
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.file import save_network

    root, folder, network = tmp_path / "bundles", make_folder(tmp_path / "taught", 12), tmp_path / "n.safetensors"
    (folder / "red").rename(folder / "taught:1")
    dataset = load(str(folder))
    torch.manual_seed(1)
    save_network(ResNet(20, 3).eval(), network, classes=dataset.classes, trained_on="", trained=np.empty(0, np.uint64))
    activate(root, index(dataset, root, FromNetwork(network, "small"), IndexOptions()))
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        listed = call("GET", "/v1/entries", params={"label": "taught:1"}).json()["entries"]
        assert {entry["taught"] for entry in listed} == {False}
        path = f"/v1/entries/{listed[0]['id']}"
        assert call("PATCH", path, json={"label": "blue"}, headers=ADMIN).json()["was"] == "taught:1"
        assert call("DELETE", path, headers=ADMIN).status_code == 204


def test_what_was_taught_outlives_switches_and_restarts(call: Call, root: Path, colour_folder: Path) -> None:
    old = model(call)["generation"]
    teach(call, "striped", striped(1))
    call("DELETE", "/v1/entries/5", headers=ADMIN)
    add_generation(root, NEW)
    call("POST", f"/v1/admin/generations/{NEW}/activate", headers=ADMIN)
    assert look(call, striped(1), "lam=1&k=1")["label"] == "striped"
    problem(call("GET", "/v1/entries/5"), 404, "not-found")
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as other:
        assert look(other, striped(1), "lam=1&k=1")["label"] == "striped"
        teach(other, "dotted", striped(2))
        eventually(lambda: look(call, striped(2), "lam=1&k=1")["label"] == "dotted")
        assert model(call)["classes"] == model(other)["classes"]
    call("POST", f"/v1/admin/generations/{old}/activate", headers=ADMIN)
    assert look(call, striped(2), "lam=1&k=1")["label"] == "dotted"


def test_what_was_imported_without_keys_is_embedded(call: Call, root: Path) -> None:
    Journal(root).teach("striped", [NewImage("a.png", striped(1)), NewImage("b.png", b"no image")], "somebody")
    eventually(lambda: model(call)["taught"]["change"] == 2)
    assert model(call)["taught"]["images"] == 1
    assert look(call, striped(1), "lam=1&k=1")["label"] == "striped"


def test_a_rebuild_folds_in_what_was_taught_and_loses_nothing_that_comes_meanwhile(call: Call, root: Path) -> None:
    teach(call, "striped", *(striped(i) for i in range(3)))
    red = look(call, make_image("red", seed=3), "neighbors=2")["neighbors"]
    call("PATCH", f"/v1/entries/{red[0]['id']}", json={"label": "blue"}, headers=ADMIN)
    call("DELETE", f"/v1/entries/{red[1]['id']}", headers=ADMIN)
    sources = [neighbor["source"] for neighbor in red]
    body = {"dataset": "colours", "mirror": True, "force": True}
    job = call("POST", "/v1/admin/rebuild", json=body, headers=ADMIN).json()["id"]
    assert teach(call, "late", striped(9)).status_code == 201
    eventually(lambda: call("GET", f"/v1/admin/jobs/{job}", headers=ADMIN).json()["state"] != "running")
    ended = call("GET", f"/v1/admin/jobs/{job}", headers=ADMIN).json()
    assert ended["state"] == "succeeded", ended
    told = model(call)
    assert told["generation"] == ended["generation"] == active_generation(root)
    assert told["classes"] == ["blue", "green", "red", "striped", "late"]
    assert told["network_classes"] == 3
    assert told["counts"][3] == 6
    assert told["taught"]["relabelled"] == told["taught"]["removed"] == 0
    # What was taught while it ran is in it, or beside it; which, is the indexer's pace.
    late = call("GET", "/v1/entries?label=late").json()
    assert late["total"] == 2
    assert [entry["mirrored"] for entry in late["entries"]] == [False, True]
    assert look(call, striped(9), "lam=1&k=1")["label"] == "late"
    listed = {e["source"]: e for e in call("GET", "/v1/entries?limit=200").json()["entries"]}
    assert listed[sources[0]]["label"] == "blue"
    assert sources[1] not in listed
    taught = call("GET", "/v1/entries?taught=true&label=striped").json()
    assert {entry["source"] for entry in taught["entries"]} == {"taught:1", "taught:2", "taught:3"}
    # An entry of the generation's own that was taught is still that image's.
    first = next(entry for entry in taught["entries"] if entry["source"] == "taught:1")
    assert call("DELETE", f"/v1/entries/{first['id']}", headers=ADMIN).status_code == 204
    assert call("GET", "/v1/entries?label=striped").json()["total"] == 4
    # And the generation before knows of all of it.
    before = generations(root)[0]
    call("POST", f"/v1/admin/generations/{before}/activate", headers=ADMIN)
    assert call("GET", "/v1/entries?label=striped").json()["total"] == 2
    assert look(call, striped(9), "lam=1&k=1")["label"] == "late"


def test_a_dataset_is_folded_as_the_journal_has_it(tmp_path: Path, colour_folder: Path) -> None:
    dataset, journal = load(str(colour_folder)), Journal(tmp_path)
    assert fold(dataset, journal) is dataset
    journal.decide("another", dataset.source(0), None, "k", own="blue")
    assert fold(dataset, journal) is dataset
    journal.teach("striped", [NewImage("a", striped())], "k")
    journal.decide(dataset.name, dataset.source(0), None, "k", own="blue")
    journal.decide(dataset.name, dataset.source(1), "red", "k", own="blue", known=dataset.classes)
    folded = fold(dataset, journal)
    assert folded.classes == (*dataset.classes, "striped")
    assert folded.own_classes == dataset.classes
    assert len(folded.labels) == 60
    assert [folded.source(i) for i in (0, 59)] == [dataset.source(1), "taught:1"]
    assert folded.labels[[0, 1, 59]].tolist() == [2, 0, 3]
    assert folded.read(59, (32, 32)).shape == (32, 32, 3)
    held = {folded.source(int(i)) for i in folded.holdout()}
    assert held == {dataset.source(int(i)) for i in dataset.holdout()}
    assert folded.content_hash() not in (dataset.content_hash(), "")
    hashed = folded.content_hash()
    journal.decide_image(1, "dotted", "k")
    assert fold(dataset, journal).content_hash() != hashed


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


def test_classes_taught_in_one_generation_are_classes_of_another(tmp_path: Path, colour_folder: Path) -> None:
    journal, red = Journal(tmp_path), make_image("red")
    # Known to the generation that answers then, and so no new label to it.
    journal.teach("zebra", [NewImage("a", red)], "k", known=("zebra",))
    journal.teach("ant", [NewImage("a", red)], "k", known=("ant",))
    journal.teach("striped", [NewImage("a", red)], "k")
    dataset = load(str(colour_folder))
    assert fold(dataset, journal).classes == (*dataset.classes, "striped", "ant", "zebra")


def test_the_journal_is_folded_in_again_and_again(tiny_bundle: Path, tmp_path: Path, colour_folder: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    journal, dataset = Journal(root), load(str(colour_folder))
    for label in ("striped", "dotted"):
        journal.teach(label, [NewImage("a", striped(i)) for i in range(2)], "k")
        activate(root, index(fold(dataset, journal), root, FromBundle(root), IndexOptions()))
    bundle = open_bundle(root, threads=1)
    manifest = bundle.manifest
    assert manifest.classes == (*dataset.classes, "striped", "dotted")
    assert (manifest.network_classes, manifest.taught) == (dataset.classes, 4)
    assert caught_up(Overlay(bundle), journal).taught.images == 0
    # Where another generation knew the class by itself, it is one of this one's all the same.
    journal.teach("zebra", [NewImage("a", striped(9))], "k", known=("zebra",))
    overlay = caught_up(Overlay(bundle), journal)
    assert overlay.classes == (*manifest.classes, "zebra")
    assert overlay.class_weights is not None
    assert overlay.class_weights.tolist() == [1, 1, 1, 10, 10, 20]
    # What measures a bundle knows of classes that its network does not.
    evaluation = evaluate(bundle, dataset)
    assert evaluation.count == 60
    assert evaluation.mixed.error_percent <= evaluation.network.error_percent
    assert sum(len(listed) for listed in bundle.taught.values()) == 4


def test_what_is_removed_or_relabelled_while_a_rebuild_runs_is_no_error(
    tiny_bundle: Path, tmp_path: Path, colour_folder: Path
) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    journal, dataset = Journal(root), load(str(colour_folder))
    journal.teach("striped", [NewImage("a", striped(i)) for i in range(30)], "k")
    journal.teach("dotted", [NewImage("a", striped(30 + i)) for i in range(3)], "k")
    folded = fold(dataset, journal)
    # More than may be unreadable, and all images of a class.
    for number in (*range(1, 26), 31, 32, 33):
        assert journal.decide_image(number, None, "k")
    assert journal.decide_image(30, "late", "k") == "striped"
    journal.decide(dataset.name, dataset.source(0), None, "k", own="blue")
    journal.decide(dataset.name, dataset.source(1), "late", "k", own="blue")
    journal.teach("later", [NewImage("a", striped(40))], "k")
    activate(root, index(folded, root, FromBundle(root), IndexOptions()))
    bundle = open_bundle(root, threads=1)
    assert bundle.manifest.dataset.images == len(bundle.store.values) == 65
    assert not bundle.manifest.dataset.unreadable
    assert bundle.manifest.classes == ("blue", "green", "red", "striped"), "dotted has no image any more"
    overlay = caught_up(Overlay(bundle), journal)
    counts = dict(zip(overlay.classes, overlay.counts.tolist(), strict=True))
    assert {label: count for label, count in counts.items() if count} == {
        "blue": 18,
        "green": 20,
        "red": 20,
        "striped": 4,
        "late": 2,
        "later": 1,
    }


def test_what_was_accepted_under_a_higher_limit_is_not_lost_to_a_lower(root: Path, colour_folder: Path) -> None:
    large = make_image("red", (300, 300), seed=1)
    options = {"bundles": root, "admin_key": KEY, "data": colour_folder.parent}
    with serving(create_app(settings(**options, max_pixels=90_000))) as call:
        assert teach(call, "striped", large).status_code == 201
    with serving(create_app(settings(**options, max_pixels=50_000))) as call:
        problem(teach(call, "striped", large), 413, "too-many-pixels")
        assert call("GET", f"/v1/entries/{added_id(1)}/thumbnail").status_code == 200
        body = {"dataset": "colours", "mirror": True, "force": True}
        job = call("POST", "/v1/admin/rebuild", json=body, headers=ADMIN).json()["id"]
        eventually(lambda: call("GET", f"/v1/admin/jobs/{job}", headers=ADMIN).json()["state"] != "running")
        ended = call("GET", f"/v1/admin/jobs/{job}", headers=ADMIN).json()
        assert ended["state"] == "succeeded", ended
        told = model(call)
        assert dict(zip(told["classes"], told["counts"], strict=True))["striped"] == 2
        # And beside a generation that keeps mirrored copies, what was taught to one that does not.
        Journal(root).teach("dotted", [NewImage("a", large)], "k")
        eventually(lambda: model(call)["taught"]["images"] == 1)


class Guarded:
    """An engine that is never to run in two threads, nor twice at once."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._busy = engine, threading.Lock()
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode(self, images: Any) -> Any:
        assert self._busy.acquire(blocking=False), "the engine is running already"
        try:
            self.threads.add(threading.current_thread().name)
            time.sleep(0.002)
            return self._engine.encode(images)
        finally:
            self._busy.release()


def test_one_thread_alone_runs_the_engine(tiny_bundle: Path, tmp_path: Path, colour_folder: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    # Mirrored copies are embedded when they are taught.
    activate(root, index(load(str(colour_folder)), root, FromBundle(root), IndexOptions(mirror=True)))
    bundle = open_bundle(root, threads=1)
    engine = Guarded(bundle.engine)
    predictor = Predictor(replace(bundle, engine=engine))
    with serving(create_app(settings(bundles=root, admin_key=KEY), predictor=predictor)) as call:
        with ThreadPoolExecutor(4) as pool:
            doing = [pool.submit(look, call, striped(i)) for i in range(12)]
            doing += [pool.submit(teach, call, "striped", striped(100 + i)) for i in range(12)]
            # What another process kept without keys is embedded between.
            journal = Journal(root)
            for i in range(12):
                journal.teach("dotted", [NewImage("a", striped(200 + i))] * 2, "k")
                doing.append(pool.submit(model, call))
            for done in doing:
                done.result()
        eventually(lambda: model(call)["taught"]["images"] == 36)
        counts = dict(zip(model(call)["classes"], model(call)["counts"], strict=True))
        assert (counts["striped"], counts["dotted"]) == (24, 48)
    assert engine.threads == {"compute"}
