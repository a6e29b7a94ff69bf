"""What an index takes of memory: what it says before it begins, and not a copy of the keys."""

import json
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.entries import embed_entries
from secondlook.indexer.memory import index_memory
from secondlook.indexer.progress import silent

PROJECT = Path(__file__).parents[2]


def test_keys_of_entries_lie_in_a_file(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    dataset = load(str(colour_folder))
    (tmp_path / "draft").mkdir()
    encoder = FromBundle(tiny_bundle).prepare(dataset, tmp_path / "draft", silent)
    everything = np.arange(len(dataset.labels))
    embedded = embed_entries(dataset, everything, encoder, silent, mirror=True, thumbnails=True, folder=tmp_path)
    below: object = embedded.keys
    while isinstance(below, np.ndarray):
        below = below.base
    assert isinstance(below, mmap.mmap)
    assert embedded.keys.shape == (2 * len(everything), encoder.engine.dim)
    np.testing.assert_allclose(np.linalg.norm(embedded.keys, axis=1), 1, atol=1e-4)
    assert len(list(embedded.sheets)) == len(np.unique(embedded.sheet))


def test_ten_times_the_entries_take_ten_times_the_store_and_not_ten_times_the_rest() -> None:
    # What the paper's keys would have taken three times over: 4.9 GB of them.
    flat, eight = (index_memory(100_000, 12_288, factory, 10) for factory in ("Flat", "SQ8"))
    assert 4.9e9 < flat < 4.9e9 + 7e9
    assert eight < flat
    small, large = (index_memory(count, 512, "IVF2048,SQ8", 100) for count in (100_000, 1_000_000))
    store = 520 * 900_000
    assert store < large - small < 2.5 * store
    assert large < 1.5 * 520 * 1_000_000 + 1.5e9
    # A holdout of a larger set is no larger, and a head is fitted on no more.
    more, most = (index_memory(count, 512, None, 100, linear=True) for count in (1_000_000, 2_000_000))
    assert most - more < 500 * 1_000_000


@pytest.mark.soak
@pytest.mark.parametrize(("dim", "more"), [(512, ()), (1024, ("--linear",)), (1024, ("--store", "Flat"))])
def test_an_index_takes_what_it_said(dim: int, more: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.index_memory", "--entries", "20000", "--dim", str(dim), *more]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak_bytes"] <= found["estimate"] <= 1.5 * found["peak_bytes"], found
