"""What a fit report says of the cache alone, and how it is drawn."""

import numpy as np
import pytest

from secondlook.evaluation.fit_grid import best_alone, cache_only_theta, surfaces
from secondlook.evaluation.statistics.reliability import Reliability, diagram
from secondlook.model.manifest import FitReport, Manifest
from secondlook.model.scoring import ece_percent

REPORT = FitReport(
    images=100,
    entries=900,
    ks=(10, 50),
    thetas=(20.0, 40.0, 80.0),
    lams=(0.0, 0.5, 1.0),
    error_percent=(((8, 7, 9), (8, 6, 7), (8, 7, 8)),) * 2,
    # Best of all is theta 40 in the mixture; alone, 20 at k 10 and 80 at k 50.
    nll=(
        ((0.4, 0.35, 0.5), (0.4, 0.3, 0.6), (0.4, 0.33, 0.7)),
        ((0.4, 0.35, 0.7), (0.4, 0.3, 0.6), (0.4, 0.33, 0.5)),
    ),
    network_error_percent=8,
    chosen_error_percent=6,
    chosen_nll=0.3,
)


def test_the_cache_alone_has_the_theta_of_its_own_lowest_nll() -> None:
    assert best_alone(REPORT, 10) == 20.0
    assert best_alone(REPORT, 50) == 80.0


@pytest.mark.parametrize(("k", "report", "expected"), [(50, REPORT, 80.0), (None, REPORT, 33.0), (50, None, 33.0)])
def test_without_a_fit_at_its_k_it_has_the_mixtures(k: int | None, report: FitReport | None, expected: float) -> None:
    # The rest of a manifest does not matter here.
    assert cache_only_theta(Manifest.model_construct(theta=33.0, k=k, fit=report)) == expected


def test_surfaces_say_how_much_of_the_grid_is_better_and_mark_the_choice() -> None:
    figure = surfaces(REPORT, 40.0, 0.5, 50)
    assert figure is not None
    assert "44 % of all pairs" in figure.title  # 4 of 9 cells err less than 8 %
    drawn = figure.svg()
    assert "lam" in drawn
    assert "theta" in drawn
    assert surfaces(REPORT, 40.0, 0.5, 25) is None


def test_reliability_makes_the_calibration_error_that_is_reported() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(4, 0.3), 500).astype(np.float32)
    labels = random.integers(0, 4, 500)
    found = Reliability.of(probabilities, labels)
    assert sum(found.counts) == 500
    assert sum(found.right) == (probabilities.argmax(1) == labels).sum()
    assert found.ece_percent == pytest.approx(ece_percent(probabilities, labels))
    figure = diagram({"network": found, "mixed": Reliability.of(np.eye(4, dtype=np.float32)[labels], labels)})
    assert f"{found.ece_percent:.2f} %" in figure.title
    assert "of the mixture 0.00 %" in figure.title
    assert "confidence" in figure.svg()
