"""Parameters and calibration hold for the cache as it is served: its class weights, its search, what was taught."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.cache import FittedCache, VotingEntries, fit_cache
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.fitting.parameters import CAUTIOUS_LAM, fit_parameters
from secondlook.model.answering.doubt import highest_score, p_value
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import mix, softmax
from secondlook.model.manifest import HoldoutInfo
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.store import ExactStore

KNOWN, NEW, DIM = 6, 40, 24
HONEST = HoldoutInfo(name="some", images=1, honest=True)


def clusters(seed: int, count: int, noise: float = 1.3) -> tuple[np.ndarray, np.ndarray]:
    """Unit keys around one direction for each known class, with room for confusion."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(KNOWN, DIM))
    values = random.integers(0, KNOWN, count)
    keys = centres[values] + noise * random.normal(size=(count, DIM))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32), values


def logits_of(seed: int, values: np.ndarray, right: float = 0.8, sure: float = 4.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    said = np.where(random.random(len(values)) < right, values, random.integers(0, KNOWN, len(values)))
    return (sure * np.eye(KNOWN)[said] + random.normal(size=(len(values), KNOWN))).astype(np.float32)


def entries_of(
    keys: np.ndarray, tenth: EmbeddedQueries, held: np.ndarray, pictures: np.ndarray | None = None
) -> VotingEntries:
    return VotingEntries(np.arange(len(keys)) if pictures is None else pictures, tenth, held, lambda rows: keys[rows])


def holdout(seed: int, count: int) -> EmbeddedQueries:
    keys, values = clusters(seed, count)
    return EmbeddedQueries(logits_of(seed, values), keys, values, Looks.joined([]))


NOTHING = EmbeddedQueries(np.empty((0, KNOWN), np.float32), np.empty((0, DIM), np.float32), np.empty(0, np.int64))


def with_new_classes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """VotingEntries of known classes, and one of each of many new ones, among them."""
    keys, values = clusters(seed, count)
    new = clusters(seed + 1, NEW)[0]
    return np.concatenate((keys, new)), np.concatenate((values, np.arange(KNOWN, KNOWN + NEW)))


@pytest.mark.parametrize("factory", ["Flat", "IVF32,Flat"])
def test_promises_hold_with_many_taught_classes_of_one_image_each(factory: str) -> None:
    keys, values = with_new_classes(0, 4000)
    asked = holdout(2, 2000)
    fitted = fit_cache(
        FaissStore.build(keys, values, factory),
        KNOWN + NEW,
        KNOWN,
        entries_of(keys, NOTHING, np.zeros(len(keys), bool)),
        ChosenHoldout(HONEST, "no", asked),
    )
    fresh = holdout(3, 2000)
    served = ServedCache.of(fitted.store, KNOWN + NEW, KNOWN)
    network = softmax(fresh.logits, KNOWN + NEW)
    calibration = fitted.calibration
    assert calibration is not None
    assert calibration.credibility is not None
    assert calibration.sets is not None
    _, cache = served.search_and_vote(fresh.keys, network, fitted.parameters)
    rows = np.arange(len(fresh.labels))
    low = np.mean([p_value(calibration.credibility, 1 - vote) <= 0.05 for vote in cache[rows, fresh.labels]])
    # Five standard errors of both draws. With all entries counting the same in the calibration it was 28 %.
    assert abs(low - 0.05) < 5 * np.sqrt(0.05 * 0.95 * 2 / 2000)
    right = mix(network, cache, fitted.parameters.lam)[rows, fresh.labels]
    inside = np.mean(1 - right <= highest_score(calibration.sets, 0.9))
    assert abs(inside - 0.9) < 0.012 + 5 * np.sqrt(0.9 * 0.1 * 2 / 2000)


def test_a_fit_asks_what_is_served() -> None:
    keys, values = with_new_classes(0, 2000)
    asked = holdout(2, 400)
    served = ServedCache.of(FaissStore.build(keys, values, "Flat"), KNOWN + NEW, KNOWN)
    fitted, _ = fit_parameters(asked, served, ks=(25,))
    lam = fitted.parameters.lam
    network = softmax(asked.logits, KNOWN + NEW)
    _, cache = served.search_and_vote(asked.keys, network, fitted.parameters)
    said = mix(network, cache, lam)
    assert fitted.report.chosen_error_percent == pytest.approx(100 * (said.argmax(1) != asked.labels).mean(), abs=0.3)
    losses = -np.log(np.maximum(said[np.arange(400), asked.labels], 1e-12))
    assert fitted.report.chosen_nll == pytest.approx(losses.mean(), abs=1e-3)


def alone(
    keys: np.ndarray, values: np.ndarray, pictures: np.ndarray, tenth: EmbeddedQueries | None = None
) -> FittedCache[FaissStore]:
    by_heart = ChosenHoldout(HONEST.model_copy(update={"honest": False}), "yes", None)
    entries = entries_of(keys, tenth or NOTHING, np.zeros(len(keys), bool), pictures)
    return fit_cache(FaissStore.build(keys, values, "Flat"), KNOWN, KNOWN, entries, by_heart)


def test_without_an_honest_holdout_lam_is_cautious_and_theta_that_of_the_cache() -> None:
    keys, values = clusters(0, 3000)
    fitted = alone(keys, values, np.arange(3000))
    assert fitted.parameters_from == "leave-one-out"
    assert fitted.parameters.lam == CAUTIOUS_LAM
    assert fitted.calibration is fitted.kept_holdout is None
    report = fitted.report
    assert report is not None
    assert report.fewer_errors is report.network_nll is None
    assert report.gains is None
    # The same theta as on images that are new.
    fresh = holdout(5, 2000)
    served = ServedCache.of(FaissStore.build(keys, values, "Flat"), KNOWN, KNOWN)
    losses = {}
    found = nearest_entries(served, fresh.keys, fitted.parameters.k or 200)
    for theta in report.thetas:
        votes = served.vote(found.similarities, found.values, theta)
        losses[theta] = -np.log(0.5 * votes[np.arange(2000), fresh.labels] + 0.5 / KNOWN).mean()
    assert losses[fitted.parameters.theta] < min(losses.values()) + 0.02


def test_copies_do_not_vote_on_each_other() -> None:
    keys, values = clusters(0, 1500)
    once = alone(keys, values, np.arange(1500))
    random = np.random.default_rng(1)
    again = keys + 0.001 * random.normal(size=keys.shape).astype(np.float32)
    again /= np.linalg.norm(again, axis=1, keepdims=True)
    both = np.concatenate((keys, again)), np.concatenate((values, values))
    twice = alone(*both, np.concatenate((np.arange(1500), np.arange(1500))))
    assert once.report is not None
    assert twice.report is not None
    assert twice.report.images == once.report.images == 1500
    assert abs(twice.report.chosen_error_percent - once.report.chosen_error_percent) < 2.0
    # Were they strangers to each other, each would be answered by its copy.
    fooled = alone(*both, np.arange(3000))
    assert fooled.report is not None
    assert fooled.report.chosen_error_percent < 0.2 * once.report.chosen_error_percent


def test_where_the_network_is_right_on_everything_the_cache_gains_nothing_and_that_is_said() -> None:
    keys, values = clusters(0, 2000, noise=4.0)
    asked = holdout(2, 500)
    asked = EmbeddedQueries(30 * np.eye(KNOWN, dtype=np.float32)[asked.labels], asked.keys, asked.labels)
    served = ServedCache.of(FaissStore.build(keys, values, "Flat"), KNOWN, KNOWN)
    fitted, _ = fit_parameters(asked, served)
    assert fitted.parameters.lam == 0
    assert fitted.report.gains is False
    assert fitted.report.fewer_errors == (0, 0)


@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 60),
    k=st.integers(1, 20),
    left_out=st.floats(0, 1),
    kinds=st.integers(1, 30),
    at_once=st.integers(1, 60),
)
def test_the_nearest_entries_are_those_of_an_exact_search(
    seed: int, count: int, k: int, left_out: float, kinds: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondlook.indexer.fitting.neighbors.KEYS_AT_ONCE", at_once)
        patch.setattr("secondlook.indexer.fitting.neighbors.QUERIES_AT_ONCE", 3)
        found_are_the_nearest(seed, count, k, left_out, kinds)


def found_are_the_nearest(seed: int, count: int, k: int, left_out: float, kinds: int) -> None:
    random = np.random.default_rng(seed)
    keys, values = clusters(seed, count)
    queries = clusters(seed + 1, 7)[0]
    out = random.random(count) < left_out
    groups, own = random.integers(0, kinds, count), random.integers(0, kinds, 7)
    store = ExactStore(keys, values)
    served = ServedCache.of(store, KNOWN, KNOWN, out)
    found = nearest_entries(served, queries, k, groups, own)
    assert found.ids.shape == (7, k)
    for row in range(7):
        allowed = np.ones(count, bool) if served.mask is None else served.mask.copy()
        allowed &= groups != own[row]
        similarities = np.where(allowed, keys @ queries[row], -np.inf)
        expected = np.sort(similarities[allowed])[::-1][:k]
        there = found.ids[row] >= 0
        assert there.sum() == len(expected)
        np.testing.assert_allclose(found.similarities[row][there], expected, atol=1e-5)
        assert allowed[found.ids[row][there]].all()
        np.testing.assert_array_equal(found.values[row][there], values[found.ids[row][there]])
        assert (found.values[row][~there] == -1).all()


def test_a_part_of_a_cache_weighs_taught_classes_by_what_takes_part() -> None:
    keys, values = with_new_classes(0, 600)
    store = ExactStore(keys, values)
    half = np.arange(len(keys)) < 300
    served = ServedCache.of(store, KNOWN + NEW, KNOWN, half)
    assert served.count == 300 + NEW
    assert served.class_weights is not None
    assert served.class_weights[KNOWN:] == pytest.approx(300 / KNOWN)
    assert sum(len(labels) for _, labels in served.chunks()) == served.count
    network = np.full((5, KNOWN + NEW), 1 / (KNOWN + NEW), np.float32)
    queries = clusters(9, 5)[0]
    _, exact = served.search_and_vote(queries, network, Parameters(20.0, 0.5, None))
    _, near = served.search_and_vote(queries, network, Parameters(20.0, 0.5, served.count))
    np.testing.assert_allclose(exact, near, atol=1e-5)
