"""An index on a real Ray cluster of two nodes, whose workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import FEATURES
from tests.e2e.test_commands import secondlook
from tests.e2e.test_sharded_index import assert_same
from tests.images_for_tests import make_folder
from tests.service_for_tests import copy_root

pytest.importorskip("ray")

LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOOPBACK.items():
            patch.setenv(name, value)
        # Workers are started where the cluster is, and import what it can.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[tuple[str, int]]:
    """Its address, and the id of the process that it runs below."""
    command = [sys.executable, "-m", "tests.ray_for_tests"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid


@pytest.fixture(scope="module")
def many_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds of work: 6,000 images, one of them unreadable."""
    folder = make_folder(tmp_path_factory.mktemp("datasets") / "many", per_class=2000)
    (folder / "green" / "040.png").write_bytes(b"no image")
    return folder


def actors(ancestor: int) -> set[int]:
    """Ids of the processes that embed, of those below that one."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, title = (folder / "stat").read_text(), (folder / "cmdline").read_bytes().decode()
        except OSError:  # it ended
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        titles[int(folder.name)] = title
    found = set()
    for pid, title in titles.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and title.startswith("ray::MapWorker") and "_Actor" in title:
            found.add(pid)
    return found


def inodes(parts: Path) -> dict[Path, int]:
    """Of the files that are written."""
    return {path: path.stat().st_ino for path in parts.glob("*/*.npz")}


@pytest.mark.cluster
def test_stopped_commands_and_killed_workers_cost_no_image(
    cluster: tuple[str, int], tiny_bundle: Path, many_colours: Path, tmp_path: Path
) -> None:
    address, pid = cluster
    root = copy_root(tiny_bundle, tmp_path / "root")
    parts = root / "parts"
    command = ("index", many_colours, "--bundles", root, "--ray", address, "--workers", 2, "--mirror")
    arguments = [sys.executable, "-m", "secondlook", *map(str, command)]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        while not (first := inodes(parts)):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(killed := actors(pid)) < 2 or not (written := inodes(parts)).keys() - first.keys():
            assert process.poll() is None
            time.sleep(0.02)
        for actor in killed:
            os.kill(actor, signal.SIGKILL)
        assert any(json.loads(path.read_text())["files"] is None for path in parts.glob("*/shard.json"))
        while not actors(pid) - killed:  # others take over
            assert process.poll() is None
            time.sleep(0.02)
        assert first.items() <= written.items() <= inodes(parts).items()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert not parts.exists()
    plain = secondlook("index", many_colours, "--bundles", root, "--mirror")
    assert plain.returncode == 0, plain.stderr
    generations = [said.strip().splitlines()[-1] for said in (out, plain.stdout)]
    bundles = [open_bundle(root, generation) for generation in generations]
    assert bundles[0].store.count == 2 * 5999
    assert bundles[0].manifest.dataset.unreadable == ("green/040.png",)
    assert_same(*bundles)


@pytest.mark.cluster
def test_what_an_actor_cannot_do_is_said_in_a_sentence(
    cluster: tuple[str, int], tiny_bundle: Path, tmp_path: Path
) -> None:
    address, _ = cluster
    root, folder = copy_root(tiny_bundle, tmp_path / "root"), make_folder(tmp_path / "spoilt", per_class=20)
    # One of each class is left: where none is, that is said before any actor begins.
    for path in (*sorted((folder / "green").iterdir())[1:], *sorted((folder / "red").iterdir())[1:]):
        path.write_bytes(b"no image")
    before = sorted(root.iterdir())
    ended = secondlook("index", folder, "--bundles", root, "--parts", tmp_path / "parts", "--ray", address)
    assert ended.returncode == 1
    assert f"most images of {folder.name} cannot be read: 38 not an image (green/001.png" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(path for path in root.iterdir() if path.name != FEATURES) == before


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("--ray", "127.0.0.1:1"), 1, "no Ray cluster answers at 127.0.0.1:1"),
        (("--ray", "nonsense"), 1, "no Ray cluster answers at nonsense"),
        (("--ray", "local", "--network", "n"), 2, "shards take the encoder of a bundle"),
        (("--ray", "local", "--shard", "0", "--shards", "2", "--parts", "p"), 2, "--ray does not go with --shard"),
        (("--workers", "2"), 2, "--workers does not go with an index in one piece"),
    ],
)
def test_no_cluster_and_no_sense_are_refused(
    environment: None, tiny_bundle: Path, colour_folder: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    ended = secondlook("index", colour_folder, "--bundles", tiny_bundle, *arguments)
    assert ended.returncode == status
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
