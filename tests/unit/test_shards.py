"""How a dataset is split."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.sharding.shards import CHUNK, chunk_ranges, shard_range


@given(st.integers(0, 100_000), st.integers(1, 300))
def test_every_image_is_in_one_shard_and_no_batch_in_two(images: int, shards: int) -> None:
    ranges = [shard_range(images, shards, shard) for shard in range(shards)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == images
    for one, next_one in pairwise(ranges):
        assert one.stop == next_one.start or not (one or next_one)
    assert sum(map(len, ranges)) == images
    assert all(found.start % BATCH == 0 for found in ranges)
    assert max(map(len, ranges)) - min(map(len, ranges)) < 2 * BATCH


@given(st.integers(0, 100_000), st.integers(1, 50))
def test_the_files_of_a_shard_hold_its_images_in_order(images: int, shards: int) -> None:
    for shard in range(shards):
        chunks = chunk_ranges(images, shards, shard)
        assert list(chunks) == sorted(chunks)
        positions = [position for chunk in chunks.values() for position in chunk]
        assert positions == list(shard_range(images, shards, shard))
        assert all(0 < len(chunk) <= CHUNK for chunk in chunks.values())
