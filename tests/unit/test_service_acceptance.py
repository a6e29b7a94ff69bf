"""When a new generation is good enough."""

import json
from pathlib import Path

import pytest

from secondlook.model.bundles.default import default_root
from secondlook.model.manifest import Manifest
from secondlook.service.errors import AcceptanceError
from secondlook.service.generations.acceptance import compare


def manifest(error: float | None, images: int = 5000, **changed: object) -> Manifest:
    """The default bundle's, with another error on another number of held-out images; None = never fitted."""
    path = next(Path(default_root()).glob("*/manifest.json"))
    content = json.loads(path.read_text())
    content["fit"] = None if error is None else content["fit"] | {"chosen_error_percent": error, "images": images}
    return Manifest.model_validate(content | changed)


@pytest.mark.parametrize(
    ("new", "active", "passes"),
    [
        ((6.8, 5000), (6.8, 5000), True),
        ((5.0, 5000), (6.8, 5000), True),
        ((7.7, 50_000), (6.8, 50_000), True),  # beyond chance (0.3 points), within the margin
        ((7.9, 50_000), (6.8, 50_000), False),
        ((8.5, 5000), (6.8, 5000), False),
        ((8.5, 500), (6.8, 500), True),  # beyond the margin, within two standard errors (3.4 points)
        ((100 / 6, 6), (0.0, 6), True),  # one image of six
        ((100.0, 6), (0.0, 6), False),
    ],
)
def test_worse_is_beyond_the_margin_and_beyond_chance(
    new: tuple[float, int], active: tuple[float, int], passes: bool
) -> None:
    if passes:
        assert f"{active[0]:.2f} %" in compare(manifest(*new), manifest(*active))
    else:
        with pytest.raises(AcceptanceError, match=rf"{new[0]:.2f} % error on its {new[1]:,} held-out images"):
            compare(manifest(*new), manifest(*active))


def test_what_cannot_be_compared_is_let_through_and_said() -> None:
    good, bad, unfitted = manifest(5.0), manifest(90.0), manifest(None)
    assert "was not fitted" in compare(bad, unfitted)
    assert "was not fitted" in compare(unfitted, good)
    other = manifest(5.0, classes=["a", *good.classes[1:]])
    assert "other classes" in compare(bad, other)
    # Classes that were taught and folded in are in no holdout.
    network = json.loads(good.network.model_dump_json()) | {"classes": 10}
    folded = manifest(90.0, classes=[*good.classes, "lobster"], network=network)
    with pytest.raises(AcceptanceError):
        compare(folded, good)
    reordered = manifest(5.0, classes=list(good.classes[::-1]))
    with pytest.raises(AcceptanceError):
        compare(bad, reordered)


def test_classes_that_one_of_the_two_does_not_have_are_not_counted() -> None:
    def fitted(**right: int) -> Manifest:
        figures = [{"label": label, "images": 500, "right": count} for label, count in right.items()]
        error = 100 - 100 * sum(right.values()) / (500 * len(right))
        made = manifest(error, 500 * len(right))
        fit = made.model_dump(mode="json", by_alias=True)["fit"] | {"classes": figures}
        return Manifest.model_validate(made.model_dump(mode="json", by_alias=True) | {"fit": fit})

    before = fitted(cat=480, dog=480)
    assert "4.00 % error on its 1,000 held-out images" in compare(fitted(cat=480, dog=480, taught=100), before)
    with pytest.raises(AcceptanceError, match=r"10\.00 % error on its 1,000 held-out images"):
        compare(fitted(cat=450, dog=450, taught=500), before)
    with pytest.raises(AcceptanceError, match=r"10\.00 % error on its 1,000"):
        compare(fitted(cat=450, dog=450), before)
