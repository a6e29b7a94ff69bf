"""Conformal sets and p-values on data for which the truth is known, and when an image is novel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secondlook.model.answering.doubt import (
    check_coverage,
    doubtful_above,
    energies,
    highest_score,
    novelty_scores,
    own_evidence,
    p_value,
    prediction_set,
    rank_for,
    ranked,
    rmds_scores,
    standing,
)
from secondlook.model.cache import softmax
from secondlook.model.errors import ParameterError
from secondlook.model.manifest import Evidence, Novelty, Ranked, Surplus

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


def test_without_evidence_novelty_is_the_distance_as_before() -> None:
    old = Novelty(neighbor=10, threshold=0.3, false_alarm_rate=0.01)
    np.testing.assert_allclose(novelty_scores(old, np.array([0.9, -np.inf], np.float32)), [0.1, 2.0], atol=1e-6)


def test_the_evidence_of_older_bundles_is_read_as_it_was() -> None:
    written = {"energy": 0.2, "similarity": 4.0, "limit": 4.1}
    old = Novelty.model_validate({"neighbor": 1, "threshold": 0.5, "false_alarm_rate": 0.01, "evidence": written})
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(np.float32)
    network, similarities = softmax(logits), np.linspace(-1, 1, 20, dtype=np.float32)
    own = own_evidence(old, logits, network, np.zeros((20, 3), np.float32))
    expected = 1 / (1 + np.exp(0.2 * np.log(np.exp(logits).sum(axis=1)) + 4 * similarities - 4.1))
    np.testing.assert_allclose(novelty_scores(old, similarities, own), expected, rtol=1e-4)
    assert doubtful_above(old.evidence) == np.inf


def test_all_that_is_weighed_is_evidence_of_being_known() -> None:
    random = np.random.default_rng(0)
    logits, keys = random.normal(0, 3, (50, 4)).astype(np.float32), random.normal(size=(50, 6)).astype(np.float32)
    directions, network = random.normal(size=(4, 7)).astype(np.float32), softmax(logits)
    similarities = random.uniform(0.2, 1, 50).astype(np.float32)
    evidence = Evidence(softmax=0.5, energy=0.2, rmds=0.1, similarity=3.0, limit=2.0, doubtful=2.5)
    novelty = Novelty(neighbor=1, threshold=0.5, false_alarm_rate=0.01, evidence=evidence)
    own = own_evidence(novelty, logits, network, keys, directions)
    rmds = (keys @ directions[:, :-1].T + directions[:, -1]).max(axis=1)
    expected = 0.5 * network.max(axis=1) + 0.2 * energies(logits, network) + 0.1 * rmds
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
    scores = novelty_scores(novelty, similarities, own)
    np.testing.assert_array_equal(scores > 0.5, expected + 3 * similarities < 2.0)
    np.testing.assert_array_equal(scores > doubtful_above(evidence), expected + 3 * similarities < 2.5)
    # A place for which no entry was found, and a key opposite to all, are the same.
    none, opposite = (novelty_scores(novelty, np.full(50, s, np.float32), own) for s in (-np.inf, -1.0))
    np.testing.assert_array_equal(none, opposite)


def test_a_surplus_of_energy_speaks_against_an_image_and_a_lack_of_it_does_not() -> None:
    random = np.random.default_rng(1)
    logits, keys = random.normal(0, 3, (50, 4)).astype(np.float32), random.normal(size=(50, 6)).astype(np.float32)
    directions, network = random.normal(size=(4, 7)).astype(np.float32), softmax(logits)
    evidence = Evidence(energy=0.2, surplus=Surplus(energy=0.3, rmds=0.1, over=0.5), similarity=2.0, limit=1.0)
    novelty = Novelty(neighbor=1, threshold=0.5, false_alarm_rate=0.01, evidence=evidence)
    assert evidence.goes_by_rmds
    own = own_evidence(novelty, logits, network, keys, directions)
    energy, rmds = energies(logits, network).astype(np.float64), rmds_scores(keys, directions).astype(np.float64)
    beyond = 0.3 * energy - 0.1 * rmds - 0.5
    assert 0 < (beyond > 0).sum() < 50
    np.testing.assert_allclose(own, 0.2 * energy - np.where(beyond > 0, beyond, 0))
    # The lesser of two sums, as energy's weight in the surplus is the larger one.
    np.testing.assert_allclose(own, np.minimum(0.2 * energy, 0.1 * rmds + 0.5 - 0.1 * energy))
    scores = novelty_scores(novelty, np.full(50, 0.5, np.float32), own)
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(scores > 0.5, own + 1.0 < 1.0)


@pytest.mark.parametrize(
    ("is_novel", "is_unusual", "credibility", "labels", "expected"),
    [
        (None, None, None, None, None),
        (True, True, 0.9, 1, "unknown"),
        (True, None, None, None, "unknown"),
        (False, True, 0.9, 1, "doubtful"),
        (False, False, 0.05, 1, "doubtful"),
        (False, False, 0.9, 2, "doubtful"),
        (False, False, 0.9, 0, "doubtful"),
        (False, False, 0.06, 1, "known"),
        (False, None, None, None, "known"),
        (None, None, 0.9, None, "known"),
        (None, None, 0.01, None, "doubtful"),
        (None, None, None, 1, "known"),
    ],
)
def test_standing_is_the_least_favourable_of_what_is_known(
    is_novel: bool | None, is_unusual: bool | None, credibility: float | None, labels: int | None, expected: str | None
) -> None:
    assert standing(is_novel, is_unusual, credibility, labels) == expected
