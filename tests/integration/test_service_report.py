"""``GET /v1/report``: how well each class is told by what the bundle was fitted on, and what was taught since."""

import json
from pathlib import Path

import pytest

from secondlook.model.bundles.root import activate, active_generation
from tests.images_for_tests import striped
from tests.service_for_tests import ADMIN, KEY, add_generation, copy_root, create_app, files, serving, settings

FIGURES = [
    {"label": "blue", "images": 20, "right": 20, "confused": []},
    {"label": "green", "images": 20, "right": 14, "confused": [["red", 5], ["blue", 1]]},
    {"label": "red", "images": 20, "right": 17, "confused": [["green", 3]]},
]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that says how its classes were answered."""
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    manifest = json.loads((root / active_generation(root) / "manifest.json").read_text())
    activate(root, add_generation(root, fit=manifest["fit"] | {"classes": FIGURES}))
    return root


def test_each_class_has_its_share_with_an_interval_and_what_it_was_taken_for(root: Path) -> None:
    with serving(create_app(settings(bundles=root))) as call:
        found = call("GET", "/v1/report").json()
        counts = dict(zip(*(call("GET", "/v1/model").json()[name] for name in ("classes", "counts")), strict=True))
    assert {one["label"]: one["images"] for one in found["classes"]} == counts
    green = found["classes"][1]
    assert (green["asked"], green["right"]) == (20, 14)
    assert green["right_percent"] == pytest.approx([70, 48.1, 85.45], abs=0.01)  # Wilson (1927), 14 of 20
    assert green["taken_for"] == [{"label": "red", "count": 5}, {"label": "blue", "count": 1}]
    assert (found["asked"], found["right"]) == (60, 51)
    assert found["right_percent"][0] == 85
    assert found["how"]
    assert any("green and red are confused, 8 times in 40 photos" in sentence for sentence in found["next"])


def test_what_was_taught_is_counted_and_was_not_asked_about(root: Path) -> None:
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        call("POST", "/v1/entries", files=files(("a.png", striped(1))), data={"label": "striped"}, headers=ADMIN)
        found = call("GET", "/v1/report").json()
    assert found["classes"][-1] == {
        "label": "striped",
        "images": 1,
        "asked": 0,
        "right": 0,
        "right_percent": None,
        "taken_for": [],
    }
    assert "striped needs more photos: it has one photo only, 20 are a good start" in found["next"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"parameters_from": "given", "fit": None, "holdout": None}, "theta, lam and k were given"),
        ({"holdout": {"name": "val", "images": 9, "honest": True}, "fit": None}, "a rebuild says it"),
        ({"holdout": {"name": "a tenth", "images": 9, "honest": None}, "fit": None}, "may have been trained on them"),
    ],
)
def test_where_nothing_is_known_it_says_why(
    tiny_bundle: Path, tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    activate(root, add_generation(root, **changed))
    with serving(create_app(settings(bundles=root))) as call:
        found = call("GET", "/v1/report").json()
    assert (found["asked"], found["right_percent"]) == (0, None)
    assert why in found["how"]
