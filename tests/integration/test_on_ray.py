"""What happens in an actor of a Ray cluster, without one."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.sharding.on_ray import TRIES, Job, _Actor, _pool, default_shards, embed_on_ray
from secondlook.indexer.sharding.shards import Shards, shard_folder
from secondlook.model.errors import EngineError
from tests.images_for_tests import make_folder


def job(folder: Path, root: Path, parts: Path) -> Job:
    return Job(folder.name, "train", folder.parent, FromBundle(root), parts, 1)


def said(actor: _Actor) -> str:
    answer = actor({"shard": np.array([0])})
    assert answer["shard"].tolist() == [0]
    return str(answer["error"][0])


def test_a_shard_that_ends_its_process_again_and_again_is_given_up(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    work = job(colour_folder, tiny_bundle, tmp_path)
    tries = shard_folder(tmp_path, 0) / f".tries-{work.run}"
    tries.parent.mkdir()
    tries.write_bytes(b"." * TRIES)
    actor = _Actor(work, work.opened().plan, 1)
    assert f"its process ended {TRIES} times before it was finished" in said(actor)
    assert work.opened().unfinished() == [0]
    tries.write_bytes(b"." * (TRIES - 1))
    assert said(actor) == ""
    assert work.opened().unfinished() == []
    assert not tries.exists()


def test_a_node_that_sees_another_folder_is_told_so(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    work = job(colour_folder, tiny_bundle, tmp_path / "parts")
    other = make_folder(tmp_path / colour_folder.name, per_class=19)
    plan = Shards(load(other.name, "train", tmp_path), FromBundle(tiny_bundle), tmp_path / "parts", 1).plan
    assert "the folders show another dataset: all nodes must see the same" in said(_Actor(work, plan, 1))
    assert not list((tmp_path / "parts").glob("*/*.npz"))


def test_a_relative_folder_keeps_its_name_on_other_nodes(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(colour_folder.parent)
    here = load(colour_folder.name, "train", tmp_path)  # not below the data root
    work = Job(colour_folder.name, "train", tmp_path, FromBundle(tiny_bundle), Path("parts"), 1)
    plan = Shards(here, FromBundle(tiny_bundle), Path("parts"), 1).plan
    monkeypatch.chdir(tmp_path)
    assert work.opened().plan == plan
    assert work.parts == colour_folder.parent / "parts"


def test_without_ray_the_extra_is_named(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")  # put back afterwards, whatever they are set to
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match="--ray needs ray: install secondlook with the ray extra"):
        embed_on_ray("local", job(colour_folder, tiny_bundle, tmp_path))


@pytest.mark.parametrize(
    ("resources", "workers", "has_network", "expected"),
    [
        ([{"CPU": 4.0}, {"CPU": 4.0}], None, True, (2, {"num_cpus": 4})),
        ([{"CPU": 4.0}, {"CPU": 4.0}], 1, True, (1, {"num_cpus": 4})),
        ([{"CPU": 4.0}, {"CPU": 2.0}, {"memory": 1.0}], 100, True, (6, {"num_cpus": 1})),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}], None, True, (3, {"num_cpus": 1, "num_gpus": 1})),
        ([{"CPU": 8.0, "GPU": 2.0}], 5, True, (2, {"num_cpus": 1, "num_gpus": 1})),
        ([{"CPU": 8.0, "GPU": 2.0}], 2, False, (2, {"num_cpus": 4})),  # an encoder for processors only
    ],
)
def test_the_pool_fits_the_cluster(
    resources: list[dict[str, float]], workers: int | None, has_network: bool, expected: tuple[int, dict[str, int]]
) -> None:
    nodes: list[dict[str, Any]] = [{"Alive": True, "Resources": one} for one in resources]
    lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    assert _pool([*nodes, lost], workers, has_network=has_network) == expected
    with pytest.raises(EngineError, match="has no processors"):
        _pool([lost], workers, has_network=has_network)


def test_small_datasets_are_one_shard_and_none_are_too_many() -> None:
    assert [default_shards(images) for images in (1, 2048, 2049, 10**9)] == [1, 1, 2, 10_000]
