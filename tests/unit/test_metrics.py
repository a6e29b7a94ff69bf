"""Error, calibration and likelihood against hand-counted cases."""

import numpy as np
import pytest

from secondlook.model.scoring import ece_percent, error_percent, nll

PROBABILITIES = np.array([[0.9, 0.1], [0.59, 0.41], [0.2, 0.8], [0.55, 0.45]], np.float32)
LABELS = np.array([0, 1, 1, 0])


def test_error_counts_the_rows_whose_largest_is_wrong() -> None:
    assert error_percent(PROBABILITIES, LABELS) == 25.0


def test_nll_is_the_mean_over_labels() -> None:
    assert nll(PROBABILITIES, LABELS) == pytest.approx(-np.log([0.9, 0.41, 0.8, 0.55]).mean(), rel=1e-6)


def test_ece_weighs_each_bin_by_its_images() -> None:
    # Ten bins: 0.9 and 0.8 are right; 0.59 is wrong and shares the bin (0.5, 0.6] with 0.55, which is right.
    expected = 100 * ((1 - 0.9) + (1 - 0.8) + abs(0.59 + 0.55 - 1)) / 4
    assert ece_percent(PROBABILITIES, LABELS, bins=10) == pytest.approx(expected, abs=1e-4)


def test_certainty_that_is_right_has_no_calibration_error() -> None:
    assert ece_percent(np.eye(3, dtype=np.float32), np.arange(3)) == 0.0
