"""An index in parts, by the command: killed, resumed, merged; and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.bundles.bundle import Bundle, open_bundle
from tests.e2e.test_commands import secondlook
from tests.images_for_tests import make_folder


@pytest.fixture(scope="session")
def many_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds of work: 3,000 images."""
    return make_folder(tmp_path_factory.mktemp("datasets") / "many", per_class=1000)


def entries(bundle: Bundle) -> list[object]:
    return [bundle.entries.get(i) for i in range(bundle.store.count)]


def assert_same(one: Bundle, other: Bundle) -> None:
    assert entries(one) == entries(other)
    for (keys, values), (others, other_values) in zip(one.store.chunks(), other.store.chunks(), strict=True):
        np.testing.assert_array_equal(values, other_values)
        np.testing.assert_allclose(keys, others, atol=1e-5)
    a, b = one.manifest, other.manifest
    assert (a.dataset, a.theta, a.lam, a.k, a.store) == (b.dataset, b.theta, b.lam, b.k, b.store)


def test_a_killed_shard_goes_on_and_the_merge_is_the_plain_index(
    tiny_bundle: Path, many_colours: Path, tmp_path: Path
) -> None:
    root, parts = Path(shutil.copytree(tiny_bundle, tmp_path / "root")), tmp_path / "parts"
    common = ("index", many_colours, "--bundles", root, "--parts", parts)
    shard = (*common, "--shards", 2, "--shard", 0)
    process = subprocess.Popen([sys.executable, "-m", "secondlook", *map(str, shard)], stderr=subprocess.DEVNULL)
    first = parts / "shard-00000" / "00000000.npz"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    written = first.stat()
    assert json.loads((first.parent / "shard.json").read_text())["files"] is None

    early = secondlook(*common, "--merge")
    assert early.returncode == 1
    assert f"Error: {parts}: shards 0, 1 are missing or unfinished, of 2: run them first" in early.stderr

    other = secondlook(*common, "--shards", 2, "--shard", 1, "--progress", "json")
    assert other.returncode == 0, other.stderr
    assert json.loads(other.stdout.splitlines()[-1]) == {"shard": 1, "shards": 2}
    went_on = secondlook(*shard)
    assert went_on.returncode == 0, went_on.stderr
    assert "shard 0 of 2 is finished" in went_on.stderr
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    again = secondlook(*shard)
    assert "shard 0 of 2 was finished already" in again.stderr

    merged = secondlook(*common, "--merge", "--no-activate")
    assert merged.returncode == 0, merged.stderr
    plain = secondlook("index", many_colours, "--bundles", root)
    assert plain.returncode == 0, plain.stderr
    generations = [ended.stdout.strip().splitlines()[-1] for ended in (merged, plain)]
    assert (root / "CURRENT").read_text().strip() == generations[1]
    assert_same(*(open_bundle(root, generation) for generation in generations))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shard", "0"), "--shard needs --shards and --parts"),
        (("--shard", "0", "--shards", "2", "--parts", "p", "--network", "n"), "index a small part of the images with"),
        (("--shard", "0", "--shards", "2", "--parts", "p", "--store", "Flat"), "--store does not go with --shard"),
        (("--shard", "2", "--shards", "2", "--parts", "p"), "there is no shard 2 of 2: they count from 0"),
        (("--shard", "0", "--shards", "0", "--parts", "p"), "0 is not in the range"),
        (("--merge",), "--merge needs --parts"),
        (("--merge", "--parts", "p", "--mirror"), "--mirror does not go with --merge"),
        (("--merge", "--parts", "p", "--shard", "1", "--shards", "2"), "--merge does not go with --shard"),
        (("--parts", "p"), "--parts does not go with an index in one piece: give --shard, --merge or --ray too"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    tiny_bundle: Path, colour_folder: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    ended = secondlook("index", colour_folder, "--bundles", tiny_bundle, *arguments)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert not Path("p").exists()
