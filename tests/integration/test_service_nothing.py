"""A server that knows nothing: each call works, or says in a sentence that there is nothing yet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.indexer.datasets.datasets import load, nothing
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import activate, active_generation
from secondlook.model.journal import Journal
from tests.images_for_tests import make_folder, make_image
from tests.networks_for_tests import colour_backbone, written
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    create_app,
    eventually,
    files,
    look,
    model,
    problem,
    serving,
    settings,
    teach,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(made, index(nothing(), made, FromNetwork(str(network)), IndexOptions()))
    return made


@pytest.fixture
def call(root: Path) -> Iterator[Call]:
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        yield call


def test_each_call_works_or_says_that_there_is_nothing(call: Call) -> None:
    told = model(call)
    assert (told["classes"], told["counts"], told["class_weights"], told["entries"]) == ([], [], [], 0)
    assert (told["network_classes"], told["dataset_classes"], told["calibration"]) == (0, 0, None)
    listed = call("GET", "/v1/entries").json()
    assert (listed["total"], listed["entries"], listed["next"]) == (0, [], None)
    problem(call("GET", "/v1/entries/0"), 404, "not-found")
    problem(call("GET", "/v1/entries/0/thumbnail"), 404, "not-found")
    problem(call("DELETE", "/v1/entries/0", headers=ADMIN), 404, "not-found")
    problem(call("PATCH", "/v1/entries/0", headers=ADMIN, json={"label": "cat"}), 404, "not-found")
    assert call("GET", "/v1/admin/changes", headers=ADMIN).json() == []
    (generation,) = call("GET", "/v1/admin/generations", headers=ADMIN).json()
    assert (generation["classes"], generation["entries"], generation["dataset"]) == (0, 0, "what was taught")
    assert call("GET", "/readyz").status_code == 200
    one, broken = ("a.png", make_image("red")), ("b.png", b"broken")
    for sent in ([one], [one, one, one], [one, broken]):
        problem(
            call("POST", "/v1/predict?neighbors=5&votes=5&coverage=0.9&abstain=true", files=files(*sent)),
            409,
            "nothing-taught",
        )
    problem(call("POST", "/v1/predict?k=all&theta=3", files=files(one)), 409, "nothing-taught")
    problem(call("POST", "/v1/predict", files=files(broken)), 409, "nothing-taught")
    problem(call("POST", "/v1/predict?lam=0.5", files=files(one)), 422, "invalid-parameter")
    found = call("POST", "/v1/search?k=200", files=files(one, broken)).json()["results"]
    assert found[0]["neighbors"] == []
    assert found[1]["status"] == 400
    page = call("GET", "/metrics").text
    assert 'secondlook_images_total{outcome="nothing-taught"} 8.0' in page
    assert "secondlook_entries 0.0" in page


def test_what_was_taught_outlives_the_way_back_to_nothing(call: Call, root: Path) -> None:
    began = active_generation(root)
    taught = teach(call, "red", *(make_image("red", seed=seed) for seed in range(3))).json()
    teach(call, "blue", *(make_image("blue", seed=seed) for seed in range(3)))
    call("POST", "/v1/admin/rebuild", headers=ADMIN)
    eventually(lambda: model(call)["generation"] != began)
    assert (model(call)["head"], model(call)["taught"]["images"]) == ("linear", 0)
    assert call("POST", f"/v1/admin/generations/{began}/activate", headers=ADMIN).status_code == 200
    assert (model(call)["head"], model(call)["taught"]["images"]) == ("none", 6)
    for colour in ("red", "blue"):
        assert look(call, make_image(colour, seed=9))["label"] == colour
    entry = taught["entries"][0]["id"]
    relabelled = call("PATCH", f"/v1/entries/{entry}", headers=ADMIN, json={"label": "rose"})
    assert relabelled.json()["label"] == "rose"
    assert model(call)["classes"] == ["red", "blue", "rose"]
    for one in call("GET", "/v1/entries").json()["entries"]:
        assert call("DELETE", f"/v1/entries/{one['id']}", headers=ADMIN).status_code == 204
    assert (model(call)["classes"], model(call)["entries"]) == ([], 0)
    problem(call("POST", "/v1/predict", files=files(("a.png", make_image("red")))), 409, "nothing-taught")


def test_a_rebuild_may_take_in_a_folder_of_photos_then(root: Path, tmp_path: Path) -> None:
    dataset = load(str(make_folder(tmp_path / "photos", per_class=6)))
    generation = index(fold(dataset, Journal(root)), root, FromBundle(root), IndexOptions())
    manifest = read_manifest(root, generation)
    assert (manifest.head, manifest.classes, manifest.is_taught_alone) == ("linear", ("blue", "green", "red"), False)
