from pathlib import Path

import pytest

from secondlook.service.http.keys import new_key
from tests.images_for_tests import make_image
from tests.service_for_tests import ADMIN, KEY, create_app, files, open_predictor, problem, serving, settings

IMAGE = files(("a.png", make_image("red")))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_predict_key_opens_predictions_and_nothing_else(tiny_bundle: Path, tmp_path: Path) -> None:
    (robot, robots), (alice, alices) = new_key("robot", "predict"), new_key("alice", "admin")
    path = tmp_path / "keys"
    path.write_text(f"{robots.line}\n{alices.line}\n")
    app = create_app(settings(keys_file=path, admin_key=KEY), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}, {"Authorization": robot}):
            refused = call("POST", "/v1/predict", files=IMAGE, headers=headers)
            problem(refused, 401, "key-missing")
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("wrong", robot[:-1], robots.digest.hex()):
            problem(call("POST", "/v1/predict", files=IMAGE, headers=bearer(wrong)), 403, "key-refused")
        for right in (robot, alice, KEY):
            assert call("POST", "/v1/predict", files=IMAGE, headers=bearer(right)).status_code == 200
        detail = problem(call("GET", "/v1/admin/jobs", headers=bearer(robot)), 403, "key-refused")
        assert "admin" in detail
        for right in (alice, KEY):
            assert call("GET", "/v1/admin/jobs", headers=bearer(right)).status_code == 200
        # What is open stays open: the page, the model's facts, health and metrics.
        for path_ in ("/", "/docs", "/v1/model", "/livez", "/readyz", "/metrics"):
            assert call("GET", path_).status_code == 200


def test_a_file_of_admin_keys_leaves_predictions_open(tiny_bundle: Path, tmp_path: Path) -> None:
    secret, key = new_key("alice", "admin")
    (tmp_path / "keys").write_text(key.line)
    app = create_app(settings(keys_file=tmp_path / "keys"), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        assert call("POST", "/v1/predict", files=IMAGE).status_code == 200
        assert call("GET", "/v1/admin/jobs", headers=bearer(secret)).status_code == 200
        problem(call("GET", "/v1/admin/jobs", headers=ADMIN), 403, "key-refused")


@pytest.mark.parametrize("text", ["", "# none yet\n"])
def test_an_empty_file_opens_no_admin_call(tiny_bundle: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    app = create_app(settings(keys_file=tmp_path / "keys"), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        problem(call("GET", "/v1/admin/jobs", headers=ADMIN), 403, "admin-disabled")
