"""Whether a server can be taught is said with the sentence that teaching is refused with."""

from pathlib import Path
from typing import Any

import pytest

from secondlook.service.http.keys import new_key
from tests.images_for_tests import make_image
from tests.service_for_tests import KEY, copy_root, create_app, model, open_predictor, serving, settings, teach

NO_KEY = "This server has no admin key: set SECONDLOOK_ADMIN_KEY or SECONDLOOK_KEYS_FILE and restart it."
DEFAULT = "The default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart."


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_root(tiny_bundle, tmp_path / "bundles")


@pytest.mark.parametrize(
    ("given", "status", "why"),
    [
        ({"admin_key": KEY}, 409, DEFAULT),
        ({}, 403, DEFAULT),
        ({"bundles": ...}, 403, NO_KEY),
        ({"bundles": ..., "admin_key": KEY, "max_taught": 0}, 409, "0 taught images are kept, at most 0 are accepted"),
        ({"bundles": ..., "admin_key": KEY}, 201, None),
    ],
)
def test_it_is_told_as_it_is(root: Path, given: dict[str, Any], status: int, why: str | None) -> None:
    own = {name: root if value is ... else value for name, value in given.items()}
    with serving(create_app(settings(**own), open_predictor(root))) as call:
        said = model(call)
        taught = teach(call, "lobster", make_image("red", seed=5))
        assert said["teachable"] is (why is None)
        assert taught.status_code == status, taught.text
        if why is None:
            assert said["why_not_teachable"] is None
        else:
            assert why in said["why_not_teachable"]
        if status == 409:  # the very sentence
            assert taught.json()["detail"].lower() == said["why_not_teachable"].lower()


def test_it_changes_with_the_keys_and_with_what_was_taught(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(new_key("robot", "predict")[1].line + "\n")
    with serving(create_app(settings(bundles=root, keys_file=file, max_taught=1), open_predictor(root))) as call:
        assert model(call)["why_not_teachable"] == NO_KEY
    secret, key = new_key("alice", "admin")
    file.write_text(key.line + "\n")
    with serving(create_app(settings(bundles=root, keys_file=file, max_taught=1), open_predictor(root))) as call:
        assert model(call)["teachable"]
        headers = {"Authorization": f"Bearer {secret}"}
        assert teach(call, "lobster", make_image("red", seed=5), headers=headers).status_code == 201
        assert model(call)["why_not_teachable"] == "1 taught images are kept, at most 1 are accepted: remove some."


def test_a_journal_that_went_away_is_told(root: Path) -> None:
    with serving(create_app(settings(bundles=root, admin_key=KEY), open_predictor(root))) as call:
        assert teach(call, "lobster", make_image("red", seed=5)).status_code == 201
        (root / "taught.sqlite").rename(root / "aside")
        said = model(call)
        assert not said["teachable"]
        assert "taught.sqlite is gone: put it back" in said["why_not_teachable"].replace("Taught", "taught")
