"""A bundle's promises are made anew while it is taught, on the holdout that it keeps."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.fitting.added import calibrate_with_added
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import ranked
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.kept_holdout import HOLDOUT, KeptHoldout
from secondlook.model.bundles.root import activate
from secondlook.model.cache import class_weights, mix, reweigh, softmax, vote
from secondlook.model.manifest import Calibration
from tests.images_for_tests import make_folder, make_image
from tests.service_for_tests import ADMIN, KEY, create_app, files, serving, settings


@pytest.fixture(scope="module")
def root(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels that the images do not show: neighbours disagree, so that every entry matters."""
    folder = tmp_path_factory.mktemp("live")
    shown = load(str(make_folder(folder / "colours", per_class=60)))
    assert isinstance(shown, FolderDataset)
    dataset = dataclasses.replace(shown, labels=np.random.default_rng(0).permutation(shown.labels))
    generation = index(dataset, folder / "root", FromBundle(tiny_bundle), IndexOptions())
    activate(folder / "root", generation)
    return folder / "root"


@pytest.fixture
def bundle(root: Path) -> Iterator[Bundle]:
    return open_bundle(root)


def keys_of(seed: int, count: int, dim: int) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def test_a_bundle_keeps_its_holdout(bundle: Bundle) -> None:
    held, info = KeptHoldout.read(bundle.path / HOLDOUT), bundle.manifest.holdout
    assert info is not None
    assert len(held.labels) == info.images == 18
    own = [bundle.entries.get(int(entry)) for entry in held.own]
    assert [entry.value for entry in own if entry] == held.labels.tolist()
    assert set(held.own.tolist()) <= set(held.out.tolist())
    # Nothing was taught: what the index calibrated stands.
    assert calibrate_with_added(bundle, Overlay(bundle)) is bundle.manifest.calibration


def test_what_was_taught_votes_where_it_is_calibrated_anew(bundle: Bundle) -> None:
    held, manifest = KeptHoldout.read(bundle.path / HOLDOUT), bundle.manifest
    keys = np.concatenate([chunk for chunk, _ in bundle.store.chunks()])
    values = bundle.store.values.copy()
    first, second, *_ = held.own.tolist()
    others = [entry for entry in range(len(values)) if entry not in held.out.tolist()]
    near = keys[others[5]] + 0.01 * keys_of(1, 4, keys.shape[1])
    taught = {n: ("new", (key / np.linalg.norm(key))[None]) for n, key in enumerate(near, 1)}
    decided: dict[int, str | None] = {first: None, second: "blue", others[0]: None, others[1]: "red"}
    images = {number: (label, {False: own[0]}) for number, (label, own) in taught.items()}
    overlay = Overlay(bundle).changed(3, b"", labels={0: "new"}, images=images, corrections=decided)
    found = calibrate_with_added(bundle, overlay)
    # Once more, by other means.
    values[[second, others[1]]] = 0, 2
    part = np.setdiff1d(np.arange(len(values)), [*held.out.tolist(), others[0]])
    voting = np.concatenate((keys[part], np.concatenate([of for _, of in taught.values()])))
    labels = np.concatenate((values[part], np.full(4, 3)))
    asked = np.array([i for i, entry in enumerate(held.own) if entry != first])
    right = np.array([values[held.own[i]] for i in asked])
    similarities = held.keys[asked] @ voting.T
    order = np.argsort(-similarities, axis=1)[:, : manifest.k]
    by_class = class_weights(np.bincount(labels), 3)
    cache = reweigh(vote(np.take_along_axis(similarities, order, axis=1), labels[order], manifest.theta, 4), by_class)
    mixed = mix(softmax(held.logits[asked], 4), cache, manifest.lam)
    assert found is not None
    for known, said in ((found.sets, mixed), (found.credibility, cache)):
        expected = ranked(1.0 - said[np.arange(len(asked)), right].astype(np.float64))
        assert known is not None
        assert (known.images, known.ranks) == (17, expected.ranks)
        assert known.scores == pytest.approx(expected.scores, abs=1e-3)
    assert manifest.calibration is not None
    assert manifest.calibration.credibility is not None
    assert found.credibility != manifest.calibration.credibility


def test_where_no_entry_is_left_nothing_is_promised(bundle: Bundle) -> None:
    held = KeptHoldout.read(bundle.path / HOLDOUT)
    removed: dict[int, str | None] = {n: None for n in range(bundle.store.count) if n not in held.own}
    found = calibrate_with_added(bundle, Overlay(bundle).changed(3, b"", labels={}, images={}, corrections=removed))
    assert found is not None
    assert (found.sets, found.credibility, found.standing) == (None, None, None)


def test_a_server_that_is_taught_calibrates_anew(root: Path) -> None:
    app = create_app(settings(bundles=root, admin_key=KEY, threads=1))
    with serving(app) as call:

        def calibration() -> Calibration:
            return Calibration.model_validate(call("GET", "/v1/model").json()["calibration"])

        before = calibration()
        response = call(
            "POST",
            "/v1/entries",
            data={"label": "new"},
            files=files(*((f"{i}.png", make_image("green", seed=i)) for i in range(6))),
            headers=ADMIN,
        )
        assert response.status_code == 201, response.text
        until = time.monotonic() + 60
        while calibration().credibility == before.credibility and time.monotonic() < until:
            time.sleep(0.1)
        running = app.state.running.batcher.predictor
        wanted = calibrate_with_added(running.bundle, running.overlay)
        assert wanted is not None
        assert calibration().credibility == wanted.credibility != before.credibility
        model = call("GET", "/v1/model").json()
        assert model["parameters_from"] == "holdout"
        assert model["holdout"]["images"] == 18
        assert model["holdout"]["honest"] is True
