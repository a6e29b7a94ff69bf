"""Conformal sets and p-values on data for which the truth is known, and when an image is novel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from indexer.novelty import FALSE_ALARM_RATE, Seen, choose_novelty, fit_novelty
from model.cache import softmax
from model.doubt import (
    check_coverage,
    energies,
    highest_score,
    novelty_scores,
    p_value,
    prediction_set,
    rank_for,
    ranked,
)
from model.errors import ParameterError
from model.manifest import Novelty, Ranked

SCORES = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))
COVERAGE = st.floats(0.5, 0.999)


@given(SCORES, COVERAGE)
def test_the_limit_is_as_high_as_its_rank_among_all_scores_makes_it(scores: np.ndarray, coverage: float) -> None:
    highest = highest_score(ranked(scores), coverage)
    rank = rank_for(len(scores), coverage)
    assert rank >= np.ceil(np.round(coverage * (len(scores) + 1), 6)) - 1
    if rank > len(scores):
        assert highest == np.inf
    else:
        # No score is left out that the rank lets in; with so few, every rank is kept.
        assert np.sort(scores)[rank - 1] <= highest <= np.sort(scores)[rank - 1] + 1e-8


@pytest.mark.parametrize("images", [50, 1000])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_sets_hold_what_they_promise_for_nine_holdouts_of_ten(images: int, coverage: float) -> None:
    """Scores are uniform: the share of new ones that a limit lets in is the limit itself."""
    random = np.random.default_rng(0)
    held = np.array([min(1.0, highest_score(ranked(random.random(images)), coverage)) for _ in range(600)])
    # 0.9, less three standard errors.
    assert (held >= coverage).mean() >= 0.9 - 3 * np.sqrt(0.09 / 600)
    # No more is let in than that needs: 4 standard deviations of a share, and the steps between ranks that are kept.
    assert held.mean() < coverage + 4 * np.sqrt(coverage * (1 - coverage) / images) + 0.006


@pytest.mark.parametrize("images", [3, 200, 1000])
def test_p_values_of_images_like_those_known_are_as_rare_as_they_say(images: int) -> None:
    random = np.random.default_rng(0)
    found = np.array([p_value(ranked(random.random(images)), random.random()) for _ in range(2000)])
    for level in (0.05, 0.1, 0.5):
        assert (found <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 2000)
    if images == 1000:
        assert (found <= 0.1).mean() > 0.07
    assert ((found > 0) & (found <= 1)).all()


@given(SCORES, st.floats(0, 1))
def test_a_p_value_counts_the_scores_that_are_as_high(scores: np.ndarray, score: float) -> None:
    kept = np.ceil(scores * 1e8) / 1e8
    exact = (1 + (kept >= score).sum()) / (len(scores) + 1)
    assert p_value(ranked(scores), score) == pytest.approx(exact)


def test_of_many_scores_some_ranks_are_kept_and_err_on_the_safe_side() -> None:
    scores = np.random.default_rng(0).random(5000) ** 3
    known = ranked(scores)
    assert len(known.ranks) < 300
    for score in (0.0, 0.01, 0.3, 0.9, 0.999, 1.0):
        exact = (1 + (scores >= score).sum()) / 5001
        assert exact - 1e-9 <= p_value(known, score) <= exact + 0.0052
    for coverage in (0.5, 0.77, 0.9, 0.951, 0.995, 0.999):
        inside = (scores <= highest_score(known, coverage)).mean()
        assert rank_for(5000, coverage) / 5000 <= inside + 1e-9
        assert inside <= rank_for(5000, coverage) / 5000 + 0.0052


@given(arrays(np.float32, 5, elements=st.floats(0, 1, width=32)), COVERAGE, COVERAGE)
def test_a_set_grows_with_the_coverage_and_is_in_order(mixed: np.ndarray, one: float, other: float) -> None:
    known = ranked(np.linspace(0, 1, 400))
    small, large = (prediction_set(known, mixed, coverage) for coverage in sorted((one, other)))
    assert large[: len(small)] == small
    assert [mixed[label] for label in large] == sorted((mixed[label] for label in large), reverse=True)
    assert set(small) == {y for y in range(5) if 1 - float(mixed[y]) <= highest_score(known, min(one, other))}


def test_too_few_known_images_leave_no_label_out() -> None:
    known = Ranked(images=2, ranks=(1, 2), scores=(0.1, 0.2))
    assert prediction_set(known, np.array([0.0, 1.0], np.float32), 0.9) == [1, 0]


@pytest.mark.parametrize("coverage", [0.0, 0.49, 0.9995, 1.0, float("nan")])
def test_a_coverage_outside_its_range_is_refused(coverage: float) -> None:
    with pytest.raises(ParameterError, match=r"coverage must be between 0\.5 and 0\.999"):
        check_coverage(coverage)


def test_energy_is_the_log_of_the_sum_that_softmax_divides_by() -> None:
    logits = np.random.default_rng(0).normal(0, 8, (50, 7)).astype(np.float32)
    expected = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(energies(logits, softmax(logits)), expected, atol=1e-4)


def test_novelty_falls_with_energy_and_with_similarity() -> None:
    random = np.random.default_rng(0)
    similarities = np.sort(random.uniform(0.5, 1, (500, 3)).astype(np.float32), axis=1)[:, ::-1]
    energy = random.normal(8, 2, 500).astype(np.float32)
    novelty = fit_novelty(similarities, energy)
    scores = novelty_scores(novelty, similarities[:, novelty.neighbor - 1], energy)
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores > novelty.threshold).mean() == novelty.false_alarm_rate <= FALSE_ALARM_RATE
    for nearer, surer in ((0.1, 0.0), (0.0, 1.0)):
        moved = novelty_scores(novelty, similarities[:, 0] + np.float32(nearer), energy + np.float32(surer))
        assert (moved < scores).all()
    # A place for which no entry was found, and a key opposite to all, are the same.
    none, opposite = (novelty_scores(novelty, np.full(500, s, np.float32), energy) for s in (-np.inf, -1.0))
    np.testing.assert_array_equal(none, opposite)


def test_without_energies_novelty_is_the_distance_as_before() -> None:
    similarities = np.linspace(1, 0, 200, dtype=np.float32)[:, None]
    novelty = fit_novelty(similarities)
    assert (novelty.neighbor, novelty.evidence) == (1, None)
    assert novelty.false_alarm_rate <= FALSE_ALARM_RATE
    old = Novelty(neighbor=10, threshold=0.3, false_alarm_rate=0.01)
    np.testing.assert_allclose(novelty_scores(old, np.array([0.9, -np.inf], np.float32)), [0.1, 2.0], atol=1e-6)


def test_images_all_alike_are_not_novel() -> None:
    novelty = fit_novelty(np.full((20, 1), 0.8, np.float32), np.full(20, 5, np.float32))
    assert novelty.false_alarm_rate == 0
    assert np.isfinite(novelty_scores(novelty, np.float32([0.8, 0.1]), np.float32([5, 1]))).all()


def test_weights_are_chosen_that_tell_unknown_images() -> None:
    random = np.random.default_rng(0)
    alike = random.normal(8, 2, 400).astype(np.float32)
    known = Seen(random.uniform(0.8, 0.9, (400, 50)).astype(np.float32), alike)
    far = random.uniform(0.6, 0.8, (400, 50)).astype(np.float32)
    novelty, tried = choose_novelty(known, Seen(far, alike))
    assert novelty.evidence is not None
    assert max(one.auroc for one in tried) > 0.9
    assert next(one.auroc for one in tried if one.share == 0) == pytest.approx(0.5)
