"""``python -m benchmarks serve``: a real server and a real sender, for a moment."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.test_commands import secondlook


def test_bench_serve_measures_the_server_beside_its_pipeline(data_root: Path, tmp_path: Path) -> None:
    ended = secondlook(*("serve", "--data-root", data_root, "--seconds", 0.02, "--out", tmp_path), module="benchmarks")
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "serve.png"}
    assert "of that at 32 connections" in ended.stdout
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["stages"] == result["stores"] == []

    served = result["serve"]
    ours, *workers = served["servers"]
    assert ours["settings"].endswith("--workers=1")
    assert [server["name"] for server in workers] == (["secondlook, workers"] if (os.cpu_count() or 1) > 1 else [])
    for server in workers:
        assert int(server["settings"].rpartition("=")[2]) > 1
        assert all(load["failures"] == 0 for load in (*server["closed"], server["open"]))
    assert [load["connections"] for load in ours["closed"]] == [1, 8, 32, 128]
    for load in (*ours["closed"], ours["open"]):
        assert load["failures"] == 0
        assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]
        # Of a closed loop, Little's law: connections = rate x mean wait. The median is within a few times the mean.
        if load["connections"]:
            assert load["answered"] >= 3 * 2 * load["connections"]
            in_flight = load["images_per_second"] * load["p50_ms"] / 1000
            assert load["connections"] / 5 < in_flight < load["connections"] * 5
    best = max(load["images_per_second"] for load in ours["closed"])
    assert 0.2 * best < ours["open"]["offered_per_second"] < 1.5 * best
    ratios = served["ratios"]["secondlook"]
    at_32 = ours["closed"][2]["images_per_second"]
    assert ratios["images_per_second_over_in_process"] == pytest.approx(at_32 / served["in_process_images_per_second"])


def test_bench_serve_measures_any_bundle_and_a_peer_beside_it(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    where = ("--bundles", tiny_bundle, "--data-root", colour_folder.parent)
    ended = secondlook(*("serve", *where, "--peers", "--seconds", 0.02, "--out", tmp_path), module="benchmarks")
    assert ended.returncode == 0, ended.stderr
    served = json.loads((tmp_path / "bench.json").read_text())["serve"]
    assert served["images"] == "60 images of colours train"
    assert "fastapi" in [server["name"] for server in served["servers"]]
    for server in served["servers"]:
        for load in server["closed"]:
            assert load["failures"] == 0
            assert load["processor_ms"] > 0
            assert 0 < load["sender_cores"] < 2
        ratios = served["ratios"][server["name"]]
        processor_ms = server["closed"][2]["processor_ms"]
        assert ratios["processor_over_in_process"] == pytest.approx(processor_ms / served["in_process_processor_ms"])
    assert served["ratios"]["fastapi"]["our_p50_of_one_over_its"] > 0
