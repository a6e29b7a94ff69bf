"""``python -m benchmarks`` on the default bundle and real images."""

import json
from pathlib import Path

import pytest

from secondlook.model.bundles.engines import why_no_openvino
from secondlook.model.networks.backbones import BACKBONES
from tests.e2e.test_commands import secondlook
from tests.images_for_tests import make_folder
from tests.networks_for_tests import classifier, written


def test_bench_measures_stages_and_stores(data_root: Path, tmp_path: Path) -> None:
    ended = secondlook(
        *("--data-root", data_root, "--part", "stages", "--part", "stores", "--seconds", 0.02),
        *("--entries", 2000, "--entries", 4000, "--store", "auto", "--store", "IVF32,SQ8", "--out", tmp_path),
        module="benchmarks",
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [stage["batch"] for stage in result["stages"]] == [1, 8, 32, 128]
    assert [(s["factory"], s["entries"]) for s in result["stores"]] == [
        ("Flat", 2000),
        ("IVF32,SQ8", 2000),
        ("Flat", 4000),
        ("IVF32,SQ8", 4000),
    ]
    dim = result["bundle"]["dim"]
    for store in result["stores"]:
        # Keys as they are take four bytes a number; in lists, one, 8 of id, and the lists' own centroids.
        low, high = (
            (4 * dim, 4 * dim + 1) if store["factory"] == "Flat" else (dim + 8, dim + 8 + 2 + 32 * 4 * dim / 2000)
        )
        assert low <= store["bytes_per_entry"] <= high
        assert store["changed_top1_percent"] <= 1
        assert store["recall_percent"] > 80
        assert store["one_over_floor"] > 0
    assert set(result["growth"]) == {"Flat", "auto", "IVF32,SQ8"}
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "stages.png", "stores.png"}


def test_bench_decoding_needs_no_images(tmp_path: Path) -> None:
    ended = secondlook("decoding", "--seconds", 0.02, "--out", tmp_path, module="benchmarks")
    assert ended.returncode == 0, ended.stderr
    assert "JPEG 500 x 373" in ended.stdout
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [(one["file"], one["waiting"]) for one in result["decoding"]] == [
        *(("PNG 32 x 32", waiting) for waiting in (32, 1)),
        *(("JPEG 500 x 373", waiting) for waiting in (32, 1)),
    ]
    for one in result["decoding"]:
        for rate, _, processor_ms in (one["threads"], one["processes"]):
            assert rate > 0
            assert processor_ms > 0


@pytest.mark.slow
def test_bench_backbones_says_what_each_costs_and_is_worth(tmp_path: Path) -> None:
    for split, count in (("train", 7), ("test", 2)):
        make_folder(tmp_path / "photos/colours" / split, count)
    (tmp_path / "photos/others/train").mkdir(parents=True)  # no test split: left alone
    ended = secondlook(
        *("backbones", "--photos", tmp_path / "photos", "--seconds", 0.02, "--out", tmp_path / "out"),
        module="benchmarks",
    )
    assert ended.returncode == 0, ended.stderr
    assert "colours, 5 a class" in ended.stdout
    found = json.loads((tmp_path / "out/bench.json").read_text())["backbones"]
    assert [one["name"] for one in found] == list(BACKBONES)
    for one in found:
        assert list(one["right"]) == ["colours"]
        assert list(one["right"]["colours"]) == ["5"]  # of 20 and 100 there are too few
        assert one["right"]["colours"]["5"]["linear"] >= 90
        assert one["milliseconds_one"] > 0
    ended = secondlook("backbones", "--photos", tmp_path / "photos/colours", module="benchmarks")
    assert ended.returncode == 1
    assert "has no folders of photos with the splits train and test" in ended.stderr


def test_bench_network_measures_any_network(tmp_path: Path) -> None:
    ended = secondlook(
        *("network", "--network", written(classifier(), tmp_path), "--seconds", 0.02, "--json"), module="benchmarks"
    )
    assert ended.returncode == 0, ended.stderr
    ways = json.loads(ended.stdout)["network"]
    assert [way["name"] for way in ways] == [
        *("as served", "without a spare core", "ONNX Runtime", "ONNX Runtime, a core spared"),
    ]
    for way in ways:
        assert way["weight_mb"] == ways[0]["weight_mb"]
        assert way["memory_over_weights"] == way["memory_mb"] / way["weight_mb"]
        assert way["start_seconds"] > 0
        assert way["images_per_second"] > 0


def test_bench_engines_measures_those_that_run_a_bundle_of_any_photos(tmp_path: Path) -> None:
    photos, root = make_folder(tmp_path / "photos"), tmp_path / "root"
    ended = secondlook("index", photos, "--bundles", root, "--network", written(classifier(), tmp_path))
    assert ended.returncode == 0, ended.stderr
    ended = secondlook("engines", "--bundles", root, "--seconds", 0.02, "--json", module="benchmarks")
    assert ended.returncode == 0, ended.stderr
    found = {one["name"].partition(" ")[0]: one for one in json.loads(ended.stdout)["engines"]}
    bare = found.pop("onnxruntime,")
    assert (bare["times_bare"], bare["is_served"]) == ([1, 1], False)
    assert set(found) == {"onnxruntime"} | ({"openvino"} if why_no_openvino() is None else set())
    for one in found.values():
        assert one["least_cosine"] == pytest.approx(1, abs=1e-3)
        assert one["same_top1_percent"] > 95
        assert min(one["images_per_second"]) > 0
    assert found["onnxruntime"]["is_served"]
