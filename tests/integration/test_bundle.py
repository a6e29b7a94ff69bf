"""Bundles: whole or refused, and switched atomically."""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root, seed
from secondlook.model.bundles.root import (
    GENERATION,
    activate,
    active_generation,
    draft,
    generations,
    new_generation,
    previous_generation,
    prune,
    refuse,
    remove,
)
from secondlook.model.errors import BundleError
from secondlook.model.networks.preprocess import CIFAR
from secondlook.model.stores.faiss_store import FaissStore


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def folder(root: Path) -> Path:
    return root / active_generation(root)


def reseal(path: Path) -> None:
    """Give a changed file its right hash, so that only what it holds is wrong."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["files"][path.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def change_manifest(root: Path, **changes: object) -> None:
    path = folder(root) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_byte(root: Path, name: str) -> None:
    content = bytearray((folder(root) / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder(root) / name).write_bytes(content)


def nan_key(root: Path) -> None:
    bundle = open_bundle(root)
    keys = np.concatenate([keys for keys, _ in bundle.store.chunks()])
    keys[7, 3] = np.nan
    FaissStore.build(keys, bundle.store.values).write(folder(root) / "keys.faiss")
    reseal(folder(root) / "keys.faiss")


def fewer_values(root: Path) -> None:
    np.save(folder(root) / "values.npy", open_bundle(root).store.values[:-1])
    reseal(folder(root) / "values.npy")


def unknown_class(root: Path) -> None:
    values = open_bundle(root).store.values.copy()
    values[0] = 3
    np.save(folder(root) / "values.npy", values)
    reseal(folder(root) / "values.npy")


def pickled_values(root: Path) -> None:
    np.save(folder(root) / "values.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reseal(folder(root) / "values.npy")


def other_graph(root: Path) -> None:
    (folder(root) / "encoder.onnx").write_bytes(b"no graph")
    reseal(folder(root) / "encoder.onnx")


def test_a_whole_bundle_opens_and_answers(root: Path) -> None:
    bundle = open_bundle(root)
    assert bundle.manifest.classes == ("blue", "green", "red")
    assert bundle.store.count == bundle.manifest.store.count == 60
    for entry_id, source, channel in ((3, "blue/003.png", 2), (27, "green/007.png", 1), (59, "red/019.png", 0)):
        entry = bundle.entries.get(entry_id)
        assert entry is not None
        assert entry.source == source
        picture = bundle.entries.thumbnail(entry)
        assert picture is not None
        means = np.asarray(Image.open(io.BytesIO(picture))).reshape(-1, 3).mean(axis=0)
        assert means.argmax() == channel
        assert means[channel] > 2 * np.delete(means, channel).max()


def geometry_of(**fields: object) -> dict[str, Any]:
    """A preprocessing with these fields in its geometry, as JSON has it."""
    said: dict[str, Any] = json.loads(CIFAR.model_dump_json())
    return said | {"geometry": said["geometry"] | fields}


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: flip_a_byte(root, "keys.faiss"), r"keys.faiss is damaged"),
    (lambda root: flip_a_byte(root, "encoder.onnx"), r"encoder.onnx is damaged"),
    (lambda root: flip_a_byte(root, "values.npy"), r"values.npy is damaged"),
    (lambda root: flip_a_byte(root, "entries.sqlite"), r"entries.sqlite is damaged"),
    (lambda root: (folder(root) / "values.npy").unlink(), r"values.npy is missing"),
    (lambda root: (folder(root) / "manifest.json").unlink(), r"manifest.json is missing"),
    (lambda root: (folder(root) / "manifest.json").write_text("{"), r"manifest.json is not a manifest"),
    (fewer_values, r"keys.faiss does not fit: the index has 60 keys but there are 59 values"),
    (unknown_class, r"values.npy has a class outside 0 to 2"),
    (pickled_values, r"values.npy is not an array"),
    (nan_key, r"keys.faiss has a key that is not finite"),
    (other_graph, r"encoder.onnx cannot run"),
    (lambda root: change_manifest(root, schema_version=4), r"schema version 4, this secondlook reads 2 and 3"),
    (lambda root: change_manifest(root, preprocess=geometry_of(height=48)), r"encoder.onnx has other inputs or"),
    (lambda root: change_manifest(root, preprocess=geometry_of(rule="stretch")), r"wrong at preprocess.geometry.rule"),
    (lambda root: change_manifest(root, preprocess=geometry_of(height=10**9)), r"wrong at preprocess.geometry.height"),
    (lambda root: change_manifest(root, preprocess=None), r"manifest.json is wrong at preprocess"),
    (lambda root: change_manifest(root, theta=-1), r"manifest.json is wrong at theta"),
    (lambda root: change_manifest(root, classes=["a", "b", "c", "d"]), r"encoder.onnx has other inputs or outputs"),
    (lambda root: change_manifest(root, generation="20200101T000000Z-0000"), r"is of generation 20200101"),
    (lambda root: change_manifest(root, files={"../CURRENT": {"size": 1, "sha256": ""}}), r"does not list"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE, ids=[why for _, why in DAMAGE])
def test_whatever_is_amiss_is_refused_by_name(root: Path, damage: Callable[[Path], object], why: str) -> None:
    damage(root)
    with pytest.raises(BundleError, match=why):
        open_bundle(root)


@pytest.mark.parametrize("content", ["", "../../etc", "20261122T101500Z-3f9c/../..", "\xff"])
def test_a_strange_pointer_names_nothing(root: Path, content: str) -> None:
    (root / "CURRENT").write_bytes(content.encode("latin-1"))
    with pytest.raises(BundleError, match=r"CURRENT|no active bundle"):
        open_bundle(root)


def test_a_generation_that_is_not_there_is_not_activated(root: Path) -> None:
    before = active_generation(root)
    with pytest.raises(BundleError, match="there is no generation"):
        activate(root, "20200101T000000Z-0000")
    assert active_generation(root) == before


def test_an_interrupted_draft_leaves_nothing(root: Path) -> None:
    before = sorted(root.iterdir())
    with pytest.raises(ZeroDivisionError), draft(root) as begun:  # noqa: PT012 - the body is the interruption
        (begun / "keys.faiss").write_bytes(b"half")
        raise ZeroDivisionError
    assert sorted(root.iterdir()) == before


def test_the_draft_of_a_killed_writer_is_swept_and_a_living_ones_is_not(root: Path) -> None:
    (root / ".20200101T000000Z-dead.draft").mkdir()
    with draft(root) as living, draft(root):
        assert living.is_dir()
        assert not (root / ".20200101T000000Z-dead.draft").exists()


def test_a_file_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("secondlook.model.bundles.files.file_info", denied)
    with pytest.raises(BundleError, match=r"encoder\.onnx cannot be read: Permission denied"):
        open_bundle(root)


def test_a_draft_that_does_not_verify_gets_no_name(root: Path) -> None:
    bundle = open_bundle(root)
    before = generations(root)
    with draft(root) as begun:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path / name, begun)
        (begun / "values.npy").unlink()
        with pytest.raises(BundleError, match=r"values\.npy"):
            bundles.commit(root, begun, bundle.manifest.model_copy(update={"generation": new_generation()}))
    assert generations(root) == before


def another(root: Path, generation: str) -> str:
    copied = Path(shutil.copytree(folder(root), root / generation))
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"generation": generation}))
    return generation


def test_the_oldest_generations_are_pruned_and_the_active_and_the_previous_one_never(root: Path) -> None:
    first = active_generation(root)
    newer = [another(root, f"2099010{i}T000000Z-aaaa") for i in range(1, 6)]
    activate(root, newer[0])
    assert (active_generation(root), previous_generation(root)) == (newer[0], first)
    activate(root, newer[0])
    assert previous_generation(root) == first, "activating the active one forgets what was before it"
    assert prune(root, keep=0) == []
    assert prune(root, keep=2) == newer[1:3]
    assert generations(root) == [first, newer[0], *newer[3:]]
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []
    assert prune(root, keep=2) == []
    activate(root, newer[4])
    assert prune(root, keep=1) == [first, newer[3]]
    assert open_bundle(root).manifest.generation == newer[4]


def test_what_was_not_accepted_does_not_count_among_the_newest(root: Path) -> None:
    first = active_generation(root)
    good, *bad = [another(root, f"2099010{i}T000000Z-aaaa") for i in range(1, 5)]
    for generation in bad:
        refuse(root, generation)
    assert prune(root, keep=0) == []
    assert prune(root, keep=2) == bad[:2], "the newest of them stays, to be looked at"
    assert generations(root) == [first, good, bad[2]]
    activate(root, bad[2])  # by hand: from now on it is one like the others
    assert prune(root, keep=1) == [good]
    assert generations(root) == [first, bad[2]]


def test_what_any_process_has_open_is_not_pruned(root: Path) -> None:
    first, *_, last = [active_generation(root), *(another(root, f"2099010{i}T000000Z-aaaa") for i in (1, 2, 3))]
    for generation in generations(root)[1:]:
        activate(root, generation)
    serving = (
        "import sys; from pathlib import Path; from secondlook.model.bundles.bundle import open_bundle; "
        "bundle = open_bundle(Path(sys.argv[1]), sys.argv[2]); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", serving, str(root), first]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        here = open_bundle(root, generations(root)[1])
        assert prune(root, keep=1) == []
        other.stdin.close()
    assert prune(root, keep=1) == [first]
    del here
    assert generations(root)[0] in prune(root, keep=1)
    assert generations(root)[-1] == last


def test_one_generation_is_removed_unless_it_is_needed(root: Path) -> None:
    first = active_generation(root)
    second, third, fourth = (another(root, f"2099010{i}T000000Z-aaaa") for i in (1, 2, 3))
    activate(root, second)
    for generation, why in ((second, "is active"), ("20200101T000000Z-0000", "no generation"), ("../x", "no gen")):
        with pytest.raises(BundleError, match=why):
            remove(root, generation)
    serving = open_bundle(root, third)
    with pytest.raises(BundleError, match=f"{third} is open in another process"):
        remove(root, third)
    assert previous_generation(root) == first
    remove(root, first)
    assert previous_generation(root) is None
    assert not (root / "PREVIOUS").exists()
    del serving
    activate(root, fourth)
    (root / "CURRENT").unlink()
    with pytest.raises(BundleError, match="was active last"):
        remove(root, second)
    remove(root, third)
    assert generations(root) == [second, fourth]
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_removing_waits_for_whoever_changes_the_root(root: Path) -> None:
    other = another(root, "20990101T000000Z-aaaa")
    removing = (
        "import sys; from pathlib import Path; from secondlook.model.bundles.root import remove; "
        "print('begun', flush=True); "
        "remove(Path(sys.argv[1]), sys.argv[2])"
    )
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with subprocess.Popen([sys.executable, "-c", removing, str(root), other], stdout=subprocess.PIPE) as remover:
        assert remover.stdout is not None
        assert remover.stdout.readline() == b"begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            remover.wait(0.5)
        assert (root / other).is_dir()
        os.close(descriptor)
    assert not (root / other).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_all_goes_on_but_nothing_is_removed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)  # no such file system is to be had in a test
    first = active_generation(root)
    second, third = (another(root, f"2099010{i}T000000Z-aaaa") for i in (1, 2))
    activate(root, second)
    activate(root, third)
    assert open_bundle(root).manifest.generation == third
    assert prune(root, keep=1) == []
    with pytest.raises(BundleError, match="without locks"):
        remove(root, first)
    with draft(root) as begun, draft(root):
        assert begun.is_dir()
    assert generations(root) == [first, second, third]
    seed(tmp_path / "new")
    assert active_generation(tmp_path / "new") == default_generation()


def test_an_open_bundle_outlives_its_files(root: Path) -> None:
    bundle = open_bundle(root)
    shutil.rmtree(bundle.path)
    images = np.zeros((1, *bundle.engine.size, 3), np.uint8)
    assert np.isfinite(Predictor(bundle).predict(images, [Predictor(bundle).defaults], 3)[0].mixed).all()  # type: ignore[union-attr]
    for entry_id in range(bundle.store.count):
        entry = bundle.entries.get(entry_id)
        assert entry is not None
        assert bundle.entries.thumbnail(entry)


def test_an_interrupted_activation_and_pruning_are_swept(root: Path) -> None:
    (root / ".CURRENT.12345678").write_text("half")
    (root / f".{another(root, '20990101T000000Z-aaaa')}.draft").mkdir()
    with draft(root):
        assert not (root / ".CURRENT.12345678").exists()
        assert len(list(root.glob(".*.draft"))) == 1


def test_drafts_begun_at_once_do_not_take_each_other_for_dead(root: Path) -> None:
    drafting = (
        "import sys; from pathlib import Path; from secondlook.model.bundles.root import draft\n"
        "for _ in range(60):\n"
        "    with draft(Path(sys.argv[1])) as folder: (folder / 'x').write_bytes(b'x')"
    )
    command = [sys.executable, "-c", drafting, str(root)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 4


def test_a_root_that_lost_its_pointer_is_not_seeded(root: Path, tmp_path: Path) -> None:
    (root / "CURRENT").unlink()
    with pytest.raises(BundleError, match="no CURRENT"):
        seed(root)
    shutil.copytree(default_root() / active_generation(default_root()), tmp_path / "killed" / default_generation())
    seed(tmp_path / "killed")
    assert active_generation(tmp_path / "killed") == default_generation()


def default_generation() -> str:
    return active_generation(default_root())


def test_generations_of_one_second_sort_by_time() -> None:
    made = []
    for _ in range(20):
        made.append(new_generation())
        time.sleep(0.001)
    assert made == sorted(set(made))
    assert all(GENERATION.fullmatch(one) for one in made)
