"""What was taught outlives switches, restarts and limits, and rebuilds fold it in, whatever comes meanwhile."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.evaluation.evaluate import evaluate
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import activate, active_generation, generations
from secondlook.model.journal import Journal, NewImage
from secondlook.model.networks.preprocess import CIFAR
from secondlook.model.stores.added_keys import added_id
from tests.images_for_tests import make_folder, make_image, striped
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    add_generation,
    copy_root,
    create_app,
    eventually,
    look,
    model,
    problem,
    serving,
    settings,
    teach,
)

NEW = "20990101T000000Z-abcd"


def test_a_class_may_be_called_as_sources_of_taught_images_begin(tmp_path: Path) -> None:
    import torch

    from secondlook.indexer.sources.from_cifar import FromCifar
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.file import save_network

    root, folder, network = tmp_path / "bundles", make_folder(tmp_path / "taught", 12), tmp_path / "n.safetensors"
    (folder / "red").rename(folder / "taught:1")
    dataset = load(str(folder))
    torch.manual_seed(1)
    save_network(ResNet(20, 3).eval(), network, classes=dataset.classes, trained_on="", trained=np.empty(0, np.uint64))
    activate(root, index(dataset, root, FromCifar(network, "small"), IndexOptions()))
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
    Journal(root).add("striped", [NewImage("a.png", striped(1)), NewImage("b.png", b"no image")], "somebody")
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
    journal.correct("another", dataset.source(0), None, "k", own="blue")
    assert fold(dataset, journal) is dataset
    journal.add("striped", [NewImage("a", striped())], "k")
    journal.correct(dataset.name, dataset.source(0), None, "k", own="blue")
    journal.correct(dataset.name, dataset.source(1), "red", "k", own="blue", known=dataset.classes)
    folded = fold(dataset, journal)
    assert folded.classes == (*dataset.classes, "striped")
    assert folded.own_classes == dataset.classes
    assert len(folded.labels) == 60
    assert [folded.source(i) for i in (0, 59)] == [dataset.source(1), "taught:1"]
    assert folded.labels[[0, 1, 59]].tolist() == [2, 0, 3]
    assert folded.read(59, CIFAR.geometry).shape == (32, 32, 3)
    held = {folded.source(int(i)) for i in folded.holdout()}
    assert held == {dataset.source(int(i)) for i in dataset.holdout()}
    assert folded.content_hash() not in (dataset.content_hash(), "")
    hashed = folded.content_hash()
    journal.correct_image(1, "dotted", "k")
    assert fold(dataset, journal).content_hash() != hashed


def test_classes_taught_in_one_generation_are_classes_of_another(tmp_path: Path, colour_folder: Path) -> None:
    journal, red = Journal(tmp_path), make_image("red")
    # Known to the generation that answers then, and so no new label to it.
    journal.add("zebra", [NewImage("a", red)], "k", known=("zebra",))
    journal.add("ant", [NewImage("a", red)], "k", known=("ant",))
    journal.add("striped", [NewImage("a", red)], "k")
    dataset = load(str(colour_folder))
    assert fold(dataset, journal).classes == (*dataset.classes, "striped", "ant", "zebra")


def test_the_journal_is_folded_in_again_and_again(tiny_bundle: Path, tmp_path: Path, colour_folder: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    journal, dataset = Journal(root), load(str(colour_folder))
    for label in ("striped", "dotted"):
        journal.add(label, [NewImage("a", striped(i)) for i in range(2)], "k")
        activate(root, index(fold(dataset, journal), root, FromBundle(root), IndexOptions()))
    bundle = open_bundle(root, threads=1)
    manifest = bundle.manifest
    assert manifest.classes == (*dataset.classes, "striped", "dotted")
    assert (manifest.network_classes, manifest.folded_change) == (dataset.classes, 4)
    assert replayed(Overlay(bundle), journal).added.images == 0
    # Where another generation knew the class by itself, it is one of this one's all the same.
    journal.add("zebra", [NewImage("a", striped(9))], "k", known=("zebra",))
    overlay = replayed(Overlay(bundle), journal)
    assert overlay.classes == (*manifest.classes, "zebra")
    assert overlay.class_weights is not None
    assert overlay.class_weights.tolist() == [1, 1, 1, 10, 10, 20]
    # What measures a bundle knows of classes that its network does not.
    evaluation = evaluate(bundle, dataset)
    assert evaluation.count == 60
    assert evaluation.mixed.error_percent <= evaluation.network.error_percent
    assert sum(len(listed) for listed in bundle.folded.values()) == 4


def test_what_is_removed_or_relabelled_while_a_rebuild_runs_is_no_error(
    tiny_bundle: Path, tmp_path: Path, colour_folder: Path
) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    journal, dataset = Journal(root), load(str(colour_folder))
    journal.add("striped", [NewImage("a", striped(i)) for i in range(30)], "k")
    journal.add("dotted", [NewImage("a", striped(30 + i)) for i in range(3)], "k")
    folded = fold(dataset, journal)
    # More than may be unreadable, and all images of a class.
    for number in (*range(1, 26), 31, 32, 33):
        assert journal.correct_image(number, None, "k")
    assert journal.correct_image(30, "late", "k") == "striped"
    journal.correct(dataset.name, dataset.source(0), None, "k", own="blue")
    journal.correct(dataset.name, dataset.source(1), "late", "k", own="blue")
    journal.add("later", [NewImage("a", striped(40))], "k")
    activate(root, index(folded, root, FromBundle(root), IndexOptions()))
    bundle = open_bundle(root, threads=1)
    assert bundle.manifest.dataset.images == len(bundle.store.values) == 65
    assert not bundle.manifest.dataset.unreadable
    assert bundle.manifest.classes == ("blue", "green", "red", "striped"), "dotted has no image any more"
    overlay = replayed(Overlay(bundle), journal)
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
        Journal(root).add("dotted", [NewImage("a", large)], "k")
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
                journal.add("dotted", [NewImage("a", striped(200 + i))] * 2, "k")
                doing.append(pool.submit(model, call))
            for done in doing:
                done.result()
        eventually(lambda: model(call)["taught"]["images"] == 36)
        counts = dict(zip(model(call)["classes"], model(call)["counts"], strict=True))
        assert (counts["striped"], counts["dotted"]) == (24, 48)
    assert engine.threads == {"compute"}
