"""Does each claim of the paper hold here? Answers from the results of the evaluation's parts, as they are saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from secondlook.evaluation.paper.published import TOLERANCE, Published
from secondlook.model.intervals import Interval


@dataclass(frozen=True)
class Claim:
    """A sentence that may be true of a model, and what was measured."""

    text: str
    holds: bool | None
    """None where the intervals do not decide it."""
    evidence: str


def claims_of(step: str, result: dict[str, Any], published: Published | None = None) -> list[Claim]:
    """What a part's result (its ``as_dict``) says of the claims it is about; nothing for a part that is about none.

    ``published`` is given where the published errors are to be met: for the paper's recipe on all images.
    """
    claims = _BY_STEP[step](result) if step in _BY_STEP else []
    if step == "errors" and published is not None and published.network is not None and published.mixed is not None:
        claims.append(_as_published(result, published.network, published.mixed))
    return claims


def decide(answers: list[bool | None]) -> bool | None:
    """Make one answer of several: true where all are, false where any is."""
    if any(answer is False for answer in answers):
        return False
    return True if answers and all(answers) else None


def _agreed(answers: list[bool]) -> bool | None:
    return answers[0] if len(set(answers)) == 1 else None


def _sign(interval: Interval) -> bool | None:
    return interval.value > 0 if interval.excludes(0) else None


def _errors(result: dict[str, Any]) -> list[Claim]:
    network, mixed, alone = (result[name] for name in ("network", "mixed", "cache_only"))
    fewer = Interval(**result["fewer_errors"]["mixed"])
    return [
        Claim(
            "The mixture errs less than the network",
            _sign(fewer),
            f"error {network['error_percent']:.2f} → {mixed['error_percent']:.2f} %, {fewer.text()} points less "
            f"(cache only {alone['error_percent']:.2f} %)",
        ),
        Claim(
            "The mixture's confidence is more honest than the network's",
            _agreed([mixed[measure] < network[measure] for measure in ("ece_percent", "nll")]),
            f"ECE {network['ece_percent']:.2f} → {mixed['ece_percent']:.2f} %, "
            f"NLL {network['nll']:.4f} → {mixed['nll']:.4f}",
        ),
    ]


def _as_published(result: dict[str, Any], network: float, mixed: float) -> Claim:
    found = result["network"]["error_percent"], result["mixed"]["error_percent"]
    return Claim(
        "The published errors are met",
        abs(found[0] - network) <= TOLERANCE and abs(found[1] - mixed) <= TOLERANCE,
        f"network {found[0]:.2f} % (published {network:.2f}), mixture {found[1]:.2f} % (published {mixed:.2f})",
    )


def _attacks(result: dict[str, Any]) -> list[Claim]:
    asked = [attack for attack in result["attacks"] if attack["fooled"]]
    if not asked:
        return []
    shares = "; ".join(
        f"{_ATTACKS.get(attack['attack'], attack['attack'])} {100 * attack['mixed']['value']:.0f} and "
        f"{100 * attack['cache_only']['value']:.0f} %"
        for attack in asked
    )
    return [
        Claim(
            "On images that fool the network, cache only is right most often",
            decide([attack["holds"] for attack in asked]),
            f"mixture and cache only right under {shares}; it holds under "
            f"{sum(attack['holds'] is True for attack in asked)} of {len(asked)} attacks",
        )
    ]


def _white_box(result: dict[str, Any]) -> list[Claim]:
    found = [b for b in result["white_box"] if b["method"] == "ensemble"]
    if not found:
        return []
    size = sorted({b["epsilon"] for b in found})[len({b["epsilon"] for b in found}) // 2]
    right = {b["target"]: Interval(**b[b["target"]]) for b in found if b["epsilon"] == size}
    network, mixed = right["network"], right["mixed"]
    apart = True if mixed.low > network.high else False if mixed.high < network.low else None
    shares = ", ".join(
        f"{label} {100 * right[name].value:.0f} %"
        for name, label in (("network", "network"), ("mixed", "mixture"), ("cache_only", "cache only"))
    )
    return [
        Claim(
            "Beyond the paper: the mixture also withstands attacks on itself better than the network does",
            apart,
            f"right after gradient attacks that change a pixel by up to {size:g} of 255: {shares}",
        )
    ]


def _jacobian(result: dict[str, Any]) -> list[Claim]:
    first = {name: result[name]["first_singular_value"]["value"] for name in ("network", "mixed", "cache_only")}
    norms = {name: result[name]["norm"]["value"] for name in ("network", "mixed", "cache_only")}
    answers = [ordering["holds"] for ordering in result["orderings"]]
    told = "network {network:.3f}, mixture {mixed:.3f}, cache only {cache_only:.3f}"
    return [
        Claim(
            "The mixture's Jacobians have the smallest first singular value",
            decide(answers[:2]),
            "mean " + told.format(**first),
        ),
        Claim("The cache's own Jacobians have the smallest norm", decide(answers[2:]), "mean " + told.format(**norms)),
    ]


def _shift(result: dict[str, Any]) -> list[Claim]:
    means = result["means"][-1]
    network, mixed = (Interval(**means["error_percent"]["own"][name]) for name in ("network", "mixed"))
    claims = [
        Claim(
            "Beyond the paper: the mixture errs less under natural shift",
            True if mixed.high < network.low else False if mixed.low > network.high else None,
            f"error, mean of all shifts: network {network.text(1)} %, mixture {mixed.text(1)} %",
        )
    ]
    if "mixed" in means["fewer_errors"]:
        fewer, regained = Interval(**means["fewer_errors"]["mixed"]), means["regained"]["mixed"]
        share = "" if regained is None else f", {100 * regained:.0f} % of what the shift cost"
        claims.append(
            Claim(
                "Beyond the paper: a cache refilled with shifted training images adapts the network",
                _sign(fewer),
                f"the mixture gains {fewer.text(1)} points{share}",
            )
        )
    return claims


_ATTACKS = {
    "fgsm": "FGSM",
    "iterative_fgsm": "iterative FGSM",
    "single_pixel": "single pixel",
    "gaussian_blur": "Gaussian blur",
}
_BY_STEP: dict[str, Callable[[dict[str, Any]], list[Claim]]] = {
    "errors": _errors,
    "attacks": _attacks,
    "white-box": _white_box,
    "jacobian": _jacobian,
    "shift": _shift,
}
