"""All entries in two dimensions, over HTTP and by a command."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

from secondlook.cli import cli
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.cache import Floats, Ints
from secondlook.model.stores.added_keys import added_id
from tests.images_for_tests import make_image, striped
from tests.service_for_tests import ADMIN, Call, eventually, model, problem, teach

needs_tsne = pytest.mark.skipif(find_spec("openTSNE") is None, reason="openTSNE is not installed")


class Points(NamedTuple):
    ids: Ints
    positions: Floats
    classes: Ints
    flags: Ints
    total: int


def points(call: Call, query: str = "") -> Points:
    """As the page reads them."""
    response = call("GET", f"/v1/admin/map{query}", headers=ADMIN)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-generation"] == model(call)["generation"]
    count, width = map(int, response.headers["x-shape"].split(","))
    body = response.content
    assert (width, len(body)) == (2, 21 * count)
    return Points(
        np.frombuffer(body, "<f8", count).astype(np.int64),
        np.frombuffer(body, "<f4", 2 * count, 8 * count).reshape(-1, 2),
        np.frombuffer(body, "<i4", count, 16 * count).astype(np.int64),
        np.frombuffer(body, "u1", count, 20 * count).astype(np.int64),
        int(response.headers["x-total"]),
    )


def test_the_map_is_of_what_answers_now(call: Call, root: Path) -> None:
    before = points(call)
    keys = np.concatenate([keys for keys, _ in open_bundle(root, threads=1).store.chunks()])
    assert before.ids.tolist() == list(range(60))
    assert before.classes.tolist() == [entry // 20 for entry in range(60)]
    assert not before.flags.any()
    # No two directions show more of how the keys differ.
    exact = np.linalg.svd(keys - keys.mean(axis=0), full_matrices=False)[1][:2]
    assert np.linalg.norm(before.positions, axis=0) == pytest.approx(exact, rel=0.02)
    call("PATCH", "/v1/entries/5", json={"label": "red"}, headers=ADMIN)
    call("DELETE", "/v1/entries/6", headers=ADMIN)
    teach(call, "striped", striped(1))
    now = points(call)
    assert now.ids.tolist() == [*(i for i in range(60) if i != 6), added_id(1)]
    assert now.classes[[5, -1]].tolist() == [2, 3]
    assert now.flags[now.flags > 0].tolist() == [2, 1]
    np.testing.assert_array_equal(now.positions[:6], before.positions[:6])


def test_suspects_are_marked_until_they_are_decided(call: Call) -> None:
    assert teach(call, "blue", make_image("red", (40, 36), seed=77)).status_code == 201
    where = call("POST", "/v1/admin/audit", headers=ADMIN).headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    assert points(call).flags[-1] == 5
    call("POST", f"/v1/entries/{added_id(1)}/confirm", json={"label": "blue"}, headers=ADMIN)
    assert points(call).flags[-1] == 1


def test_fewer_points_are_evenly_over_all(call: Call) -> None:
    some = points(call, "?limit=3")
    assert (some.ids.tolist(), some.total) == ([0, 29, 59], 60)
    for query in ("?limit=0", "?limit=1000001", "?method=umap", "?colour=red"):
        problem(call("GET", f"/v1/admin/map{query}", headers=ADMIN), 422, "invalid-parameter")


def test_mirrored_copies_are_no_points(call: Call) -> None:
    body = {"dataset": "colours", "mirror": True, "force": True}
    where = call("POST", "/v1/admin/rebuild", json=body, headers=ADMIN).headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    teach(call, "striped", striped(1))
    found = points(call)
    assert (len(found.ids), found.ids[-1]) == (61, added_id(1))
    for entry in found.ids.tolist():
        assert call("GET", f"/v1/entries/{entry}").json()["mirrored"] is False


def test_without_a_job_there_is_no_tsne(call: Call) -> None:
    problem(call("GET", "/v1/admin/map?method=tsne", headers=ADMIN), 404, "not-found")
    if find_spec("openTSNE") is None:
        detail = problem(call("POST", "/v1/admin/map", headers=ADMIN), 422, "invalid-parameter")
        assert "extra map" in detail


@needs_tsne
def test_tsne_is_a_job_and_is_kept(call: Call) -> None:
    started = call("POST", "/v1/admin/map", headers=ADMIN)
    assert started.status_code == 202
    where = started.headers["location"]
    eventually(lambda: call("GET", where, headers=ADMIN).json()["state"] != "running")
    job = call("GET", where, headers=ADMIN).json()
    assert (job["kind"], job["state"], job["found"]) == ("map", "succeeded", "60 images are laid out"), job
    found = points(call, "?method=tsne")
    assert found.ids.tolist() == list(range(60))
    # What is alike lies together: most points' nearest is of their class.
    apart = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (found.classes[apart.argmin(axis=1)] == found.classes).mean() > 0.8
    # What is taught since is not on it, and what is removed is not either.
    teach(call, "striped", striped(1))
    call("DELETE", "/v1/entries/6", headers=ADMIN)
    assert points(call, "?method=tsne").ids.tolist() == [i for i in range(60) if i != 6]


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_a_map_is_written_by_a_command(root: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"map{ending}"
    ended = CliRunner().invoke(cli, ["map", "--bundles", str(root), "--out", str(out)], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "60 images written" in ended.stderr
    text = out.read_text()
    rows = json.loads(text) if ending == ".json" else list(csv.DictReader(text.splitlines()))
    assert len(rows) == 60
    assert (str(rows[0]["id"]), rows[0]["label"], rows[0]["source"]) == ("0", "blue", "blue/000.png")
    assert all(np.isfinite([float(row["x"]), float(row["y"])]).all() for row in rows)


def test_a_map_goes_to_a_file_whose_ending_says_how(root: Path, tmp_path: Path) -> None:
    for arguments in (["--out", str(tmp_path / "map.xls")], []):
        ended = CliRunner().invoke(cli, ["map", "--bundles", str(root), *arguments])
        assert ended.exit_code != 0
