"""Rebuilds over HTTP, by the real indexer: what may be asked for, what comes of it, what is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from secondlook.model.bundles.root import active_generation, generations
from tests.images_for_tests import COLOURS, make_folder, make_image
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    answering,
    create_app,
    eventually,
    files,
    problem,
    serving,
    settings,
)


@pytest.mark.parametrize(
    "dataset",
    ["", ".", "..", "../colours", "/etc", "colours/../..", "-x", "--help", "nothing", "colours/blue/000.png", "a\x00b"],
)
def test_a_rebuild_reads_only_below_the_data_folder(call: Call, dataset: str) -> None:
    response = call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"dataset": dataset})
    assert "dataset" in problem(response, 422, "invalid-parameter")
    assert call("GET", "/v1/admin/jobs", headers=ADMIN).json() == []


def test_a_link_out_of_the_data_folder_is_refused(root: Path, tmp_path: Path, colour_folder: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "way-out").symlink_to(colour_folder)
    with serving(create_app(settings(bundles=root, admin_key=KEY, data=tmp_path / "data"))) as call:
        problem(call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"dataset": "way-out"}), 422, "invalid-parameter")


def test_a_rebuild_without_a_data_folder_says_what_to_set(root: Path) -> None:
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        detail = problem(call("POST", "/v1/admin/rebuild", headers=ADMIN), 422, "invalid-parameter")
        assert "SECONDLOOK_DATA" in detail


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"data_set": "cifar10"}, "data_set"),
        ({"recipe": "../x.json"}, "recipe"),
        ({"store": "--network=/etc/passwd"}, "store"),
        ({"mirror": "perhaps"}, "mirror"),
        ([], "The body"),
    ],
)
def test_a_bad_rebuild_request_names_the_field(call: Call, body: Any, name: str) -> None:
    detail = problem(call("POST", "/v1/admin/rebuild", headers=ADMIN, json=body), 422, "invalid-parameter")
    assert detail.startswith(f"{name}: ")


def test_other_keys_are_refused_at_once_where_the_bundle_keeps_no_network(root: Path, colour_folder: Path) -> None:
    folder = root / active_generation(root)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["network.safetensors"]
    manifest["network"]["name"] = "mine.onnx"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "network.safetensors").unlink()
    with serving(create_app(settings(bundles=root, admin_key=KEY, data=colour_folder.parent))) as call:
        detail = problem(
            call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"recipe": "small"}), 422, "invalid-parameter"
        )
        assert detail.startswith("recipe: ")
        assert "it was mine.onnx" in detail
        assert "leave recipe out" in detail
        assert call("GET", "/v1/admin/jobs", headers=ADMIN).json() == []


def test_a_body_that_is_not_json(call: Call) -> None:
    headers = ADMIN | {"Content-Type": "application/json"}
    problem(call("POST", "/v1/admin/rebuild", headers=headers, content=b"{"), 400, "malformed-request")


def test_a_rebuild_builds_and_switches(call: Call, root: Path) -> None:
    before = answering(call)
    started = call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"dataset": "colours", "mirror": True})
    assert started.status_code == 202
    where = started.headers["location"]
    assert where == f"/v1/admin/jobs/{started.json()['id']}"
    problem(call("POST", "/v1/admin/rebuild", headers=ADMIN), 409, "rebuild-running")
    assert call("POST", "/v1/predict", files=files(("a.png", make_image("red")))).json()["generation"] == before
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    job = call("GET", where, headers=ADMIN).json()
    assert job["state"] == "succeeded", job
    assert job["generation"] in generations(root)
    assert answering(call) == active_generation(root) == job["generation"] != before
    assert call("GET", "/v1/model").json()["dataset"]["mirrored"] is True
    body = call("POST", "/v1/predict?neighbors=1", files=files(("a.png", make_image("red")))).json()
    assert body["generation"] == job["generation"]


def test_a_rebuild_that_fails_says_why_and_changes_nothing(call: Call, root: Path) -> None:
    before = answering(call)
    started = call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"dataset": "cifar10"})
    where = started.headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    job = call("GET", where, headers=ADMIN).json()
    assert job["state"] == "failed"
    assert "cifar10" in job["error"]
    assert "SECONDLOOK_DATA" in job["error"]
    assert str(root.parent) not in job["error"]
    assert generations(root) == [before]
    assert answering(call) == before


def mislabelled(folder: Path) -> Path:
    """The plain colours of the tests' dataset, each named at random: nothing to learn."""
    for i in range(60):
        name = list(COLOURS)[(7 * i * i + i // 3) % 3]
        target = folder / name / f"{i:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(make_image(list(COLOURS)[i % 3], (40, 36), seed=i))
    return folder


def rebuilt(call: Call, **asked: object) -> dict[str, Any]:
    where = call("POST", "/v1/admin/rebuild", headers=ADMIN, json=asked).headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    job: dict[str, Any] = call("GET", where, headers=ADMIN).json()
    return job


def test_a_worse_generation_is_built_but_does_not_answer_unless_forced(root: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "colours", per_class=60)
    mislabelled(tmp_path / "data" / "chaos")
    given = settings(bundles=root, admin_key=KEY, data=tmp_path / "data", keep_generations=2)
    with serving(create_app(given)) as call:
        good = rebuilt(call, dataset="colours")
        assert good["state"] == "succeeded", good
        assert "0.00 % error on its 18 held-out images" in good["compared"]
        bad = rebuilt(call, dataset="chaos")
        assert bad["state"] == "failed"
        assert "worse than the active one" in bad["error"]
        assert "the margin is 1 points" in bad["error"]
        assert answering(call) == active_generation(root) == good["generation"]
        first = generations(root)[0]
        worse = rebuilt(call, dataset="chaos")
        assert worse["state"] == "failed"
        assert generations(root) == [first, good["generation"], worse["generation"]], "of the refused ones, the newest"
        bad = worse
        forced = rebuilt(call, dataset="chaos", force=True)
        assert (forced["state"], answering(call)) == ("succeeded", forced["generation"]), forced
        assert "forced" in forced["compared"]
        # Two are kept; the third newest is the one that was active before.
        assert generations(root) == [good["generation"], bad["generation"], forced["generation"]]
        back = call("POST", f"/v1/admin/generations/{bad['generation']}/activate", headers=ADMIN)
        assert back.status_code == 200, "by hand, errors are not asked for"
        again = rebuilt(call, dataset="colours")
        assert again["state"] == "succeeded", again
        assert generations(root) == [bad["generation"], forced["generation"], again["generation"]]


def test_a_jobs_log_can_be_read_and_shows_no_folder(call: Call, colour_folder: Path) -> None:
    job = rebuilt(call, dataset="colours")
    log = call("GET", f"/v1/admin/jobs/{job['id']}/log", headers=ADMIN)
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    for written in ("embed, 60 to do", "store Flat", "held-out", f"generation {job['generation']} is built"):
        assert written in log.text
    assert log.text.splitlines()[-1].endswith(" succeeded")
    assert str(colour_folder.parent) not in log.text
    problem(call("GET", "/v1/admin/jobs/x/log", headers=ADMIN), 404, "not-found")
    failed = rebuilt(call, dataset="cifar10")
    log = call("GET", f"/v1/admin/jobs/{failed['id']}/log", headers=ADMIN)
    assert log.text.splitlines()[-1].endswith(f" failed: {failed['error']}")
    assert str(colour_folder.parent) not in log.text
