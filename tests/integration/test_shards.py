"""Parts of an index: embedded one by one, killed, resumed, damaged, and merged into what one process makes."""

import hashlib
import io
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset, load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sharding.merge import merge, open_parts
from secondlook.indexer.sharding.shards import Shards, read_chunk, read_info, shard_folder
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import activate, active_generation
from secondlook.model.errors import DatasetError, ParameterError, PartsError
from secondlook.model.journal import Journal, NewImage
from secondlook.model.manifest import FileInfo
from secondlook.model.networks.preprocess import CIFAR
from secondlook.model.networks.recipe import Recipe
from tests.images_for_tests import make_folder, make_image
from tests.service_for_tests import copy_root

FIXED = IndexOptions(parameters=Parameters(20.0, 1.0, 5))


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.indexer.sharding.shards.CHUNK", BATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images, which make five batches, one of them unreadable."""
    made = make_folder(tmp_path_factory.mktemp("datasets") / "many", per_class=100)
    (made / "green" / "040.png").write_bytes(b"no image")
    return made


def embed(dataset: Dataset, root: Path, parts: Path, shards: int, *, mirror: bool = False) -> None:
    work = Shards(dataset, FromBundle(root), parts, shards, mirror=mirror)
    for shard in reversed(range(shards)):
        assert work.write(shard)
    assert work.unfinished() == []


def merged(
    dataset: Dataset, root: Path, parts: Path, options: IndexOptions = FIXED, journal: Journal | None = None
) -> Bundle:
    return open_bundle(root, merge(dataset, open_parts(parts), root, root, options, journal))


def plain(dataset: Dataset, root: Path, folder: Path, options: IndexOptions) -> Bundle:
    """The bundle of one process, where nothing was embedded before."""
    return open_bundle(folder / "plain", index(dataset, folder / "plain", FromBundle(root), options))


def keys_of(bundle: Bundle) -> np.ndarray:
    return np.concatenate([keys for keys, _ in bundle.store.chunks()])


def pictures(bundle: Bundle) -> list[bytes | None]:
    return [bundle.entries.thumbnail(e) for i in range(bundle.store.count) if (e := bundle.entries.get(i))]


def assert_same(one: Bundle, other: Bundle) -> None:
    """Entry for entry, by id."""
    assert one.store.count == other.store.count
    count = one.store.count
    assert [one.entries.get(i) for i in range(count)] == [other.entries.get(i) for i in range(count)]
    assert pictures(one) == pictures(other)
    np.testing.assert_array_equal(one.store.values, other.store.values)
    np.testing.assert_allclose(keys_of(one), keys_of(other), atol=1e-5)
    a, b = one.manifest, other.manifest
    assert (a.dataset, a.classes, a.network, a.recipe) == (b.dataset, b.classes, b.network, b.recipe)
    assert (a.theta, a.lam, a.k, a.store, a.folded_change) == (b.theta, b.lam, b.k, b.store, b.folded_change)
    assert (a.fit is None) == (b.fit is None)
    if a.fit is not None and b.fit is not None:
        assert (a.fit.images, a.fit.chosen_error_percent) == (b.fit.images, b.fit.chosen_error_percent)
        assert a.fit.chosen_nll == pytest.approx(b.fit.chosen_nll, abs=1e-4)


@pytest.mark.parametrize(
    ("shards", "options"),
    [
        (1, IndexOptions()),
        (3, IndexOptions()),
        (3, IndexOptions(mirror=True, store="SQ8")),
        (9, replace(FIXED, mirror=True, store="IVF2,Flat")),  # more shards than batches
    ],
)
def test_shards_merge_into_what_one_process_makes(
    tiny_bundle: Path, folder: Path, tmp_path: Path, shards: int, options: IndexOptions
) -> None:
    root, dataset = copy_root(tiny_bundle, tmp_path / "root"), load(str(folder))
    embed(dataset, root, tmp_path / "parts", shards, mirror=options.mirror)
    bundle = merged(dataset, root, tmp_path / "parts", replace(options, mirror=False))
    assert bundle.manifest.dataset.unreadable == ("green/040.png",)
    assert_same(bundle, plain(dataset, root, tmp_path, options))


def test_images_in_memory_are_split_too(tiny_bundle: Path, folder: Path, tmp_path: Path) -> None:
    root, files = copy_root(tiny_bundle, tmp_path / "root"), load(str(folder))
    order = np.setdiff1d(np.random.default_rng(0).permutation(300), [140], assume_unique=True)
    pixels = np.stack([files.read(int(i), CIFAR.geometry) for i in order])
    dataset = ArrayDataset("memory", "train", files.classes, files.labels[order], pixels, [f"{i}.png" for i in order])
    embed(dataset, root, tmp_path / "parts", 2)
    bundle = merged(dataset, root, tmp_path / "parts", IndexOptions())
    assert_same(bundle, plain(dataset, root, tmp_path, IndexOptions()))


@pytest.mark.parametrize("is_known", [False, True])
def test_what_was_taught_is_folded_in_where_parts_are_merged(
    tiny_bundle: Path, folder: Path, tmp_path: Path, is_known: bool
) -> None:
    root, dataset = copy_root(tiny_bundle, tmp_path / "root"), load(str(folder))
    if is_known:  # some of the images were embedded before, and their pictures are in other sheets
        fewer = make_folder(tmp_path / "fewer", per_class=20)
        index(load(str(fewer)), root, FromBundle(root), IndexOptions(mirror=True))
    embed(dataset, root, tmp_path / "parts", 3, mirror=True)
    journal = Journal(root)
    journal.add("violet", [NewImage("a", make_image("blue", seed=7)), NewImage("b", make_image("red", seed=8))], "k")
    held = [int(dataset.holdout()[i]) for i in (10, 20)]
    for removed in (3, 4, *range(64, 128), held[0]):  # some of a batch, and a whole one
        journal.correct(dataset.name, dataset.source(removed), None, "k", own="?")
    journal.correct(dataset.name, dataset.source(held[1]), "violet", "k", own="?", known=dataset.classes)

    bundle = merged(dataset, root, tmp_path / "parts", IndexOptions(), journal)
    options = IndexOptions(mirror=True)
    plain = open_bundle(root, index(fold(dataset, journal), root, FromBundle(root), options))
    assert bundle.store.count == 2 * (300 - 1 - 67 + 2)
    assert bundle.manifest.dataset == plain.manifest.dataset
    assert (bundle.manifest.classes, bundle.manifest.folded_change) == (
        plain.manifest.classes,
        plain.manifest.folded_change,
    )
    assert bundle.manifest.fit is not None
    assert plain.manifest.fit is not None
    assert bundle.manifest.fit.chosen_nll == pytest.approx(plain.manifest.fit.chosen_nll, abs=1e-3)

    # Batches begin elsewhere when images before them are gone: the same entries under other ids.
    def by_image(of: Bundle) -> dict[tuple[str, int, bool], np.ndarray]:
        keys, entries = keys_of(of), [of.entries.get(i) for i in range(of.store.count)]
        return {(e.source, e.value, e.mirrored): key for e, key in zip(entries, keys, strict=True) if e is not None}

    ours, theirs = by_image(bundle), by_image(plain)
    assert ours.keys() == theirs.keys()
    assert len(ours) == bundle.store.count
    for entry, key in ours.items():
        np.testing.assert_allclose(key, theirs[entry], atol=1e-4)
    # Each thumbnail shows its own image, and no sheet has a picture more.
    folded, shown = fold(dataset, journal), {}
    positions = {folded.source(position): position for position in range(len(folded.labels))}
    for i in range(bundle.store.count):
        entry = bundle.entries.get(i)
        assert entry is not None
        shown[entry.sheet] = entry.place + 1
        if i % 20 == 0:
            with Image.open(io.BytesIO(bundle.entries.thumbnail(entry) or b"")) as thumbnail:
                seen = np.asarray(thumbnail).astype(float)
            image = folded.read(positions[entry.source], CIFAR.geometry).astype(float)
            image = image[:, :: -1 if entry.mirrored else 1]
            assert np.abs(seen - image).mean() < 14.5  # its JPEG: 12.5 at most; another of its class: 16.7 at least
    with closing(sqlite3.connect(bundle.path / "entries.sqlite")) as table:
        sheets = dict(table.execute("SELECT id, jpeg FROM sheets").fetchall())
    assert sheets.keys() == shown.keys()
    for number, jpeg in sheets.items():
        with Image.open(io.BytesIO(jpeg)) as sheet:
            assert sheet.height == 32 * shown[number]


class StoppedError(Exception):
    pass


def test_a_shard_that_was_stopped_goes_on_after_its_last_file(tiny_bundle: Path, folder: Path, tmp_path: Path) -> None:
    root, dataset, parts = copy_root(tiny_bundle, tmp_path / "root"), load(str(folder)), tmp_path / "parts"

    def stop(stage: str, done: int, total: int) -> None:
        if done > 140:  # within the third of five batches
            raise StoppedError

    work = Shards(dataset, FromBundle(root), parts, 1)
    with pytest.raises(StoppedError):
        work.write(0, stop)
    kept = {path: path.stat().st_ino for path in shard_folder(parts, 0).glob("*.npz")}
    assert [path.name for path in sorted(kept)] == ["00000000.npz", "00000001.npz"]
    with pytest.raises(PartsError, match="shard 0 is missing or unfinished, of 1"):
        open_parts(parts)
    # One that was damaged meanwhile, as by a disk that lost power, is embedded again.
    (shard_folder(parts, 0) / "00000001.npz").write_bytes(b"PK half of a file")
    (shard_folder(parts, 0) / ".00000002.npz.abcd").write_bytes(b"never renamed")
    embed(dataset, root, parts, 1)
    assert (shard_folder(parts, 0) / "00000000.npz").stat().st_ino == kept[shard_folder(parts, 0) / "00000000.npz"]
    expected = plain(dataset, root, tmp_path, FIXED)
    assert_same(merged(dataset, root, parts), expected)

    # What is finished is not done again; a file that is gone is.
    before = {path: path.stat().st_mtime_ns for path in shard_folder(parts, 0).iterdir()}
    assert not Shards(dataset, FromBundle(root), parts, 1).write(0, stop)
    assert {path: path.stat().st_mtime_ns for path in shard_folder(parts, 0).iterdir()} == before
    (shard_folder(parts, 0) / "00000003.npz").unlink()
    assert Shards(dataset, FromBundle(root), parts, 1).write(0)
    assert_same(merged(dataset, root, parts), expected)

    # Files that no manifest speaks for are embedded anew.
    (shard_folder(parts, 0) / "shard.json").unlink()
    np.savez(shard_folder(parts, 0) / "00000001.npz", **read_chunk(shard_folder(parts, 0) / "00000000.npz"))  # type: ignore[arg-type]
    embed(dataset, root, parts, 1)
    assert_same(merged(dataset, root, parts), expected)


def test_what_shards_left_out_is_told_by_the_merge(tiny_bundle: Path, tmp_path: Path) -> None:
    root, made = copy_root(tiny_bundle, tmp_path / "root"), make_folder(tmp_path / "many", per_class=100)
    for position in (1, 2, 3, 65, 66, 67, 130, 131, 132, 200, 201):
        (made / ("blue", "green", "red")[position // 100] / f"{position % 100:03d}.png").write_bytes(b"no image")
    damaged = made / "red" / "050.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    (made / "red" / "notes.txt").write_text("no image")
    embed(load(str(made)), root, tmp_path / "parts", 4)
    # By another process, which reads no image.
    assert merged(load(str(made)), root, tmp_path / "parts").manifest.dataset.left_out == {
        "damaged": 1,
        "not an image": 12,
    }


def test_a_class_that_no_shard_could_read_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    root, made = copy_root(tiny_bundle, tmp_path / "root"), make_folder(tmp_path / "many", per_class=70)
    for path in (made / "green").iterdir():
        path.write_bytes(b"")
    embed(load(str(made)), root, tmp_path / "parts", 3)
    with pytest.raises(DatasetError, match=r"green has no images \(70 empty \(green/000.png"):
        merged(load(str(made)), root, tmp_path / "parts")


def change_chunk(path: Path, **changed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Another content, under a manifest that vouches for it: what a bug would write."""
    arrays = read_chunk(path)
    with path.open("wb") as file:
        np.savez(file, **{name: changed.get(name, lambda a: a)(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    info = read_info(path.parent)
    assert info is not None
    assert info.files is not None
    of_file = FileInfo(size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (path.parent / "shard.json").write_text(
        info.model_copy(update={"files": {**info.files, path.name: of_file}}).model_dump_json()
    )


def without_last(array: np.ndarray) -> np.ndarray:
    return array[:-1]


def last_twice(array: np.ndarray) -> np.ndarray:
    return np.concatenate((array[:-1], array[-2:-1]))


@pytest.fixture
def embedded(tiny_bundle: Path, folder: Path, tmp_path: Path) -> tuple[Path, Dataset, Path]:
    """A root, a dataset and its three parts."""
    root, dataset = copy_root(tiny_bundle, tmp_path / "root"), load(str(folder))
    embed(dataset, root, tmp_path / "parts", 3)
    return root, dataset, tmp_path / "parts"


Spoil = Callable[[Path, Dataset, Path], object]


def another_shard(shards: int = 3, **options: bool) -> Spoil:
    """Shard 1 as if it were of another run."""

    def spoil(root: Path, dataset: Dataset, parts: Path) -> None:
        other = parts.with_name("other")
        Shards(dataset, FromBundle(root), other, shards, **options).write(1)
        shard_folder(parts, 1).rename(parts / "away")
        shard_folder(other, 1).rename(shard_folder(parts, 1))

    return spoil


def of_another_dataset(root: Path, dataset: Dataset, parts: Path) -> None:
    another_shard()(root, load(str(make_folder(parts.with_name("smaller"), per_class=99))), parts)


def flip_a_byte(root: Path, dataset: Dataset, parts: Path) -> None:
    path = shard_folder(parts, 1) / "00000000.npz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def of_another_encoder(root: Path, dataset: Dataset, parts: Path) -> None:
    path = shard_folder(parts, 1) / "shard.json"
    info = read_info(path.parent)
    assert info is not None
    plan = info.plan.model_copy(update={"encoder": "0" * 64})
    path.write_text(info.model_copy(update={"plan": plan}).model_dump_json())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda r, d, parts: shard_folder(parts, 1).rename(parts / "away"), "shard 1 is missing or unfinished, of 3"),
        (another_shard(mirror=True), "shard-00001 is of a run with --mirror, unlike .*shard-00000: remove one"),
        (another_shard(thumbnails=False), "shard-00001 is of a run without thumbnails"),
        (another_shard(4), "shard-00001 is of a split into 4, not into 3"),
        (of_another_dataset, "shard-00001 is of another dataset"),
        (of_another_encoder, "shard-00001 is of another encoder"),
        (flip_a_byte, "00000000.npz is damaged: remove it and run shard 1 again"),
        (
            lambda r, d, parts: (shard_folder(parts, 2) / "00000001.npz").unlink(),
            r"shard-00002/00000001.npz is missing: run shard 2 again",
        ),
        (
            lambda r, d, parts: (shard_folder(parts, 1) / "shard.json").write_text("{"),
            r"shard.json is not a shard's manifest: remove .*shard-00001 and run it again",
        ),
        (
            lambda r, d, parts: change_chunk(
                shard_folder(parts, 1) / "00000000.npz",
                **dict.fromkeys(("keys", "positions", "mirrored", "sheet", "place"), without_last),
            ),
            "has 1 images twice or not at all, that at position 127 first: remove .*shard-00001",
        ),
        (
            lambda r, d, parts: change_chunk(shard_folder(parts, 1) / "00000000.npz", positions=last_twice),
            "has 2 images twice or not at all, that at position 126 first: remove .*shard-00001",
        ),
    ],
)
def test_parts_that_do_not_make_the_index_are_refused(
    embedded: tuple[Path, Dataset, Path], spoil: Spoil, sentence: str
) -> None:
    root, dataset, parts = embedded
    before = sorted(root.iterdir())
    spoil(root, dataset, parts)
    with pytest.raises(PartsError, match=sentence):
        merged(dataset, root, parts)
    assert sorted(root.iterdir()) == before


def test_parts_of_what_is_not_there_any_more_are_refused(
    embedded: tuple[Path, Dataset, Path], tiny_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    root, dataset, parts = embedded
    other = load(str(make_folder(tmp_path / "many", per_class=99)))
    with pytest.raises(PartsError, match="are not of this dataset as it now is"):
        merged(other, root, parts)
    with pytest.raises(PartsError, match="has no parts of an index"):
        open_parts(tmp_path / "nowhere")
    for changed, sentence in (
        (Shards(other, FromBundle(root), parts, 3), "is of another dataset: give another folder"),
        (Shards(dataset, FromBundle(root), parts, 2), "is of a split into 3, not into 2: give another folder"),
    ):
        with pytest.raises(PartsError, match=sentence):
            changed.write(0)
    with pytest.raises(ParameterError, match="there is no shard 3 of 3: they count from 0"):
        Shards(dataset, FromBundle(root), parts, 3).write(3)


def test_parts_are_merged_with_the_encoder_that_made_them(
    embedded: tuple[Path, Dataset, Path], tiny_network: Path
) -> None:
    root, dataset, parts = embedded
    made_with = active_generation(root)
    recipe = Recipe(layers=("pool",))
    activate(root, index(dataset, root, FromCifar(tiny_network, recipe), FIXED))
    bundle = merged(dataset, root, parts)
    assert bundle.manifest.recipe == read_manifest(root, made_with).recipe != recipe
    shutil.rmtree(root / made_with)
    with pytest.raises(PartsError, match=f"by the encoder of generation {made_with}, which .* does not have any more"):
        merge(dataset, open_parts(parts), root, root, FIXED)
