"""How fast shards were embedded is read off their files."""

import os
from pathlib import Path

import pytest

from benchmarks.on_ray import FEWEST, _rate, embedding
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.sharding.shards import CHUNK, Plan, chunk_ranges, shard_folder
from secondlook.model.errors import ParameterError


@pytest.mark.parametrize("workers", [1, 2])
def test_the_start_of_the_workers_is_left_out_of_their_rate(tmp_path: Path, workers: int) -> None:
    """Each worker starts at 100 s, writes a file every 2 s, and takes the next shard when it is done with one."""
    plan = Plan(
        **dict.fromkeys(("listing", "dataset", "encoder", "generation"), "x"),  # type: ignore[arg-type]
        images=16 * CHUNK,
        mirror=False,
        thumbnails=True,
        shards=8,
    )
    for shard in range(plan.shards):
        shard_folder(tmp_path, shard).mkdir()
        for i, name in enumerate(chunk_ranges(plan.images, plan.shards, shard)):
            (shard_folder(tmp_path, shard) / name).touch()
            when = 100 + 2 * (2 * (shard // workers) + i + 1)
            os.utime(shard_folder(tmp_path, shard) / name, (when, when))
    rate, first = _rate(tmp_path, plan, workers)
    assert first == 102
    assert rate == pytest.approx(workers * CHUNK / 2)


def test_too_few_images_are_refused(tiny_bundle: Path, colour_folder: Path) -> None:
    with pytest.raises(ParameterError, match=f"{FEWEST:,} images or more"):
        embedding(FromBundle(tiny_bundle), load(str(colour_folder)), FEWEST - 1)
