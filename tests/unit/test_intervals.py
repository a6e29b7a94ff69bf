"""Intervals against what is known of them."""

import numpy as np
import pytest

from secondlook.model.intervals import Interval, bootstrap, wilson


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap(values)
    assert found.value == pytest.approx(values.mean())
    error = values.std() / 20
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for trial in range(300):
        found = bootstrap(generator.random(200) < 0.3, draws=300, level=0.8, seed=trial)
        held += found.low <= 0.3 <= found.high
    assert 0.72 <= held / 300 <= 0.88


def test_draws_in_several_blocks_are_as_many_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(20.0)
    calls: list[float] = []

    def statistic(rows: np.ndarray) -> float:
        calls.append(rows.mean())
        return float(rows.mean())

    whole = bootstrap(values, draws=70)
    monkeypatch.setattr("secondlook.model.intervals.INDICES_AT_ONCE", 300)
    by_statistic = bootstrap(values, statistic, draws=70)
    assert len(calls) == 71  # and once of the rows as they are
    assert by_statistic == pytest.approx(whole)


def test_few_distinct_values_are_drawn_alike_but_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    change = np.repeat([-1.0, 0.0, 1.0], [30, 950, 20])
    at_once = bootstrap(change, draws=20_000)
    monkeypatch.setattr("secondlook.model.intervals.FEW", 0)
    assert at_once == pytest.approx(bootstrap(change, draws=20_000), abs=7e-4)


def test_a_paired_difference_is_surer_than_two_means() -> None:
    generator = np.random.default_rng(3)
    wrong = generator.random(1000) < 0.2
    fewer = wrong & (generator.random(1000) < 0.9)
    paired = bootstrap(wrong.astype(float) - fewer)
    assert paired.excludes(0)
    assert bootstrap(wrong).low < bootstrap(fewer).high


@pytest.mark.parametrize("values", [np.empty(0), np.zeros((3, 2))])
def test_what_cannot_be_resampled_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot resample"):
        bootstrap(values)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # The first from Newcombe (1998), table I (81 of 263: .2553 to .3662), the others from its formula by hand.
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_gives_the_published_interval(successes: int, count: int, low: float, high: float) -> None:
    found = wilson(successes, count)
    assert (found.value, found.low, found.high) == pytest.approx((successes / count, low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_intervals_are_shown_with_as_many_digits_as_asked() -> None:
    assert Interval(7.194, 6.7, 7.71).text(1) == "7.2 (6.7 to 7.7)"
