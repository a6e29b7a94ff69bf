from typing import Any

from secondlook.evaluation.paper.claims import claims_of, decide
from secondlook.evaluation.paper.published import ROWS, row_of


def errors(network: float, mixed: float, low: float, high: float) -> dict[str, Any]:
    def model(error: float, ece: float) -> dict[str, float]:
        return {"error_percent": error, "ece_percent": ece, "nll": ece / 10}

    return {
        "network": model(network, 5.0),
        "mixed": model(mixed, 2.0),
        "cache_only": model(9.0, 3.0),
        "fewer_errors": {"mixed": {"value": network - mixed, "low": low, "high": high}},
    }


def test_fewer_errors_hold_only_where_the_interval_says_so() -> None:
    assert [claim.holds for claim in claims_of("errors", errors(7.74, 7.01, 0.4, 1.0))] == [True, True]
    assert claims_of("errors", errors(7.74, 7.7, -0.3, 0.4))[0].holds is None
    assert claims_of("errors", errors(7.01, 7.74, -1.0, -0.4))[0].holds is False


def test_calibration_is_not_decided_where_its_measures_disagree() -> None:
    result = errors(7.74, 7.01, 0.4, 1.0)
    result["mixed"]["nll"] = 0.9
    assert claims_of("errors", result)[1].holds is None
    result["mixed"]["ece_percent"] = 6.0
    assert claims_of("errors", result)[1].holds is False


def test_published_errors_are_met_within_an_image() -> None:
    row = row_of("cifar10_ResNet32v1_model.150.h5")
    assert row is ROWS[1]
    met, near, missed = (
        claims_of("errors", errors(7.74, mixed, 0.4, 1.0), row)[-1] for mixed in (7.01, 7.0200001, 7.03)
    )
    assert (met.holds, near.holds, missed.holds) == (True, True, False)
    assert "published 7.01" in missed.evidence
    # CIFAR-100's are not compared.
    assert len(claims_of("errors", errors(32.94, 29.36, 2.0, 4.0), row_of("cifar100_ResNet32v1_model.143.h5"))) == 2
    assert row_of("own.h5") is None


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def attack(holds: bool | None, fooled: int = 40) -> dict[str, Any]:
    return {"attack": "single_pixel", "fooled": fooled, "mixed": share(0.4), "cache_only": share(0.6), "holds": holds}


def test_one_attack_the_other_way_is_enough_against_the_ordering() -> None:
    (claim,) = claims_of("attacks", {"attacks": [attack(True), attack(None), attack(False), attack(None, fooled=0)]})
    assert claim.holds is False
    assert "1 of 3 attacks" in claim.evidence
    assert claims_of("attacks", {"attacks": [attack(True), attack(None)]})[0].holds is None
    assert claims_of("attacks", {"attacks": [attack(True), attack(True)]})[0].holds is True
    assert claims_of("attacks", {"attacks": []}) == []


def test_white_box_compares_at_the_middle_size() -> None:
    found = [
        {"method": method, "target": target, "epsilon": size, target: share(right)}
        for method, by_size in (("pgd", 0.1), ("ensemble", 0.0))
        for size in (0.25, 0.5, 1.0)
        for target, right in (("network", 0.2), ("mixed", 0.5 if size == 0.5 else 0.2), ("cache_only", by_size))
    ]
    (claim,) = claims_of("white-box", {"white_box": found})
    assert claim.holds is True
    assert "up to 0.5 of 255: network 20 %, mixture 50 %, cache only 0 %" in claim.evidence


def test_smallest_of_three_needs_both_orderings() -> None:
    model = {"first_singular_value": {"value": 1.0}, "norm": {"value": 1.0}}
    result = {
        **dict.fromkeys(("network", "mixed", "cache_only"), model),
        "orderings": [{"holds": holds} for holds in (True, False, True, True)],
    }
    assert [claim.holds for claim in claims_of("jacobian", result)] == [False, True]
    assert decide([True, None]) is None
    assert decide([]) is None


def test_shift_tells_of_refilling_only_where_it_was_tried() -> None:
    def own(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 1, "high": value + 1}

    means = {"error_percent": {"own": {"network": own(30.0), "mixed": own(20.0)}}, "fewer_errors": {}, "regained": {}}
    assert [claim.holds for claim in claims_of("shift", {"means": [means]})] == [True]
    means |= {"fewer_errors": {"mixed": own(3.0)}, "regained": {"mixed": 0.25}}
    (_, adapts) = claims_of("shift", {"means": [means]})
    assert adapts.holds is True
    assert "25 %" in adapts.evidence


def test_other_parts_claim_nothing() -> None:
    assert claims_of("curves", {}) == []
