"""Answers do not depend on what else was asked, whatever the store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.answering.early_exit import margins
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import mix, softmax, vote
from secondlook.model.manifest import EarlyExit, SearchInfo
from secondlook.model.stores.faiss_store import FaissStore

IMAGES = np.random.default_rng(3).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    """The tiny bundle's encoder before an IVF store of 1,200 keys near those of the images asked for."""
    whole = open_bundle(tiny_bundle)
    random = np.random.default_rng(0)
    keys = np.repeat(whole.engine.encode(IMAGES).keys, 100, axis=0)
    keys += 0.05 * random.normal(size=keys.shape).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    store = FaissStore.build(keys, random.integers(0, 3, len(keys)), "IVF16,SQ8")
    # A margin that half of the images reach.
    encoding = whole.engine.encode(IMAGES)
    found = store.with_search(SearchInfo(lists=1)).search(encoding.keys, 12)
    leads = margins(mix(softmax(encoding.logits), vote(found.similarities, found.values, 30.0, 3), 0.6))
    quick = EarlyExit(lists=1, k=12, margin=float(np.median(leads)))
    store = store.with_search(SearchInfo(lists=6, early_exit=quick))
    # The novelty that was fitted for other keys is no business of these tests.
    manifest = whole.manifest.model_copy(update={"theta": 30.0, "lam": 0.6, "k": 100, "calibration": None})
    return replace(whole, store=store, manifest=manifest)


def answers(bundle: Bundle, asked: list[Parameters], neighbors: int = 0) -> list[Answer]:
    found = Predictor(bundle).predict(IMAGES[: len(asked)], asked, neighbors)
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer for answer in found if isinstance(answer, Answer)]


def test_listing_neighbours_changes_no_answer(bundle: Bundle) -> None:
    asked = [Predictor(bundle).defaults] * 12
    plain, listed = answers(bundle, asked), answers(bundle, asked, neighbors=4)
    full = bundle.store.search(bundle.engine.encode(IMAGES).keys, 4)
    for one, other, ids in zip(plain, listed, full.ids, strict=True):
        np.testing.assert_allclose(one.mixed, other.mixed, atol=1e-6)
        np.testing.assert_allclose(one.cache, other.cache, atol=1e-6)
        assert (len(one.ids), other.ids.tolist()) == (0, ids.tolist())


def test_other_requests_in_a_batch_change_no_answer(bundle: Bundle) -> None:
    default = Predictor(bundle).defaults
    asked = [default, Parameters(5.0, 1.0, 3), default, Parameters(30.0, 0.6, None), default, Parameters(30.0, 0.0, 7)]
    together = answers(bundle, asked)
    for i, parameters in enumerate(asked):
        (alone,) = Predictor(bundle).predict(IMAGES[i : i + 1], [parameters])
        assert isinstance(alone, Answer)
        np.testing.assert_allclose(together[i].mixed, alone.mixed, atol=1e-5)


def test_some_are_settled_quickly_and_some_are_not(bundle: Bundle) -> None:
    assert isinstance(bundle.store, FaissStore)
    asked = [Predictor(bundle).defaults] * 12
    slow = replace(bundle, store=bundle.store.with_search(SearchInfo(lists=6)))
    pairs = zip(answers(bundle, asked), answers(slow, asked), strict=True)
    differ = [np.abs(quick.cache - full.cache).max() > 1e-6 for quick, full in pairs]
    assert 0 < sum(differ) < 12


def test_where_all_entries_vote_shares_are_those_of_the_whole_vote(bundle: Bundle) -> None:
    exact = Parameters(30.0, 1.0, None)
    keys = bundle.engine.encode(IMAGES).keys
    stored = np.concatenate([chunk for chunk, _ in bundle.store.chunks()])
    for answer, key in zip(answers(bundle, [exact] * 12, neighbors=50), keys, strict=True):
        weights = np.exp(30.0 * (stored @ key).astype(np.float64))
        found = answer.ids >= 0
        np.testing.assert_allclose(answer.weights[found], (weights / weights.sum())[answer.ids[found]], rtol=1e-3)
        assert answer.weights.sum() < 1
