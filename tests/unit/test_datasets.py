"""Datasets: folders as they are found, and the published batches read without unpickling."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset, load
from secondlook.indexer.datasets.derived import DerivedDataset, subset
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.published import CIFAR, Published
from secondlook.model.errors import DatasetError, ImageError
from secondlook.model.images import SMALL, Geometry
from tests.images_for_tests import make_folder, make_image


def published(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[int]]:
    """A CIFAR-10 of 7 images, whose files are taken as the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
    labels = [3, 8, 8, 0, 6, 6, 1]
    # As Python 2 wrote them: strings of bytes, protocol 2, and the pixels as one long string.
    names = b"".join(b"U\x06" + f"{i:02}.png".encode() for i in range(7))
    batch = (
        b"\x80\x02}(U\x06labels](" + b"".join(b"K" + bytes([v]) for v in labels) + b"e"
        b"U\x04dataT" + images.size.to_bytes(4, "little") + images.tobytes() + b"U\x09filenames](" + names + b"eu."
    )
    meta = b"\x80\x02}U\x0blabel_names](" + b"".join(b"U\x01" + bytes([97 + i]) for i in range(10)) + b"es."
    assert list(pickle.loads(meta, encoding="latin1")) == ["label_names"]
    (folder / "one").write_bytes(batch)
    (folder / "batches.meta").write_bytes(meta)
    ours = Published(
        "cifar-10-batches-py",
        "labels",
        "label_names",
        ("batches.meta", hashlib.md5(meta).hexdigest()),
        {"train": (("one", hashlib.md5(batch).hexdigest()),)},
    )
    monkeypatch.setitem(CIFAR, "cifar10", ours)
    return images.reshape(7, 3, 32, 32).transpose(0, 2, 3, 1), labels


def test_a_published_batch_is_read_without_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = published(tmp_path, monkeypatch)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    dataset = load("cifar10", "train", tmp_path)
    assert isinstance(dataset, ArrayDataset)
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == labels
    assert dataset.classes == tuple("abcdefghij")
    assert dataset.source(6) == "06.png"
    assert dataset.holdout().tolist() == [6]


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "one"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="not the published file"):
        load("cifar10", "train", tmp_path)


def test_the_real_cifar10_is_as_published(data_root: Path) -> None:
    train, test = load("cifar10", "train", data_root), load("cifar10", "test", data_root)
    assert isinstance(train, ArrayDataset)
    assert train.images.shape == (50000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[0] == "airplane"
    # The training images' well-known mean colour.
    np.testing.assert_allclose(train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)
    assert train.holdout()[[0, -1]].tolist() == [45000, 49999]


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    dataset = load(str(make_folder(tmp_path / "colours", per_class=10)))
    assert isinstance(dataset, FolderDataset)
    assert dataset.classes == ("blue", "green", "red")
    assert dataset.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert dataset.source(10) == "green/000.png"
    assert dataset.holdout().tolist() == [9, 19, 29]
    assert dataset.read(29, SMALL)[16, 16].argmax() == 0


def test_splits_and_data_root(tmp_path: Path) -> None:
    make_folder(tmp_path / "mine" / "train", per_class=2)
    make_folder(tmp_path / "mine" / "test", per_class=1)
    assert len(load("mine", "train", tmp_path).labels) == 6
    assert len(load("mine", "test", tmp_path).labels) == 3


def test_a_split_that_is_not_there_is_not_made_of_the_others_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "mine" / "train", per_class=2)
    make_folder(tmp_path / "mine" / "val", per_class=1)
    assert load("mine", "train", tmp_path).classes == ("blue", "green", "red")
    with pytest.raises(DatasetError, match="has train and val but no test/"):
        load("mine", "test", tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "vehicles", per_class=2)
    (folder / "red").rename(folder / "train")
    assert load("vehicles", "test", tmp_path).classes == ("blue", "green", "train")


@pytest.mark.parametrize(("given", "kept"), [("sets/mine", "sets/mine"), ("{root}/sets/mine", "mine")])
def test_a_name_finds_the_images_again_and_tells_no_absolute_path(tmp_path: Path, given: str, kept: str) -> None:
    make_folder(tmp_path / "sets" / "mine", per_class=1)
    assert load(given.format(root=tmp_path), "train", tmp_path).name == kept


def test_a_file_name_that_is_no_utf8_is_shown_as_text(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=1)
    (folder / "red" / "000.png").rename(folder / "red" / os.fsdecode(b"gr\xfcn.png"))
    dataset = load(str(folder))
    dataset.source(2).encode()
    assert dataset.read(2, SMALL).shape == (32, 32, 3)


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    dataset = load(str(make_folder(tmp_path / "colours", per_class=2)))
    before = dataset.content_hash()
    assert before == dataset.content_hash()
    (tmp_path / "colours" / "red" / "001.png").write_bytes(make_image("blue"))
    assert dataset.content_hash() != before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    dataset = load(str(make_folder(tmp_path / "colours", per_class=1)))
    (tmp_path / "colours" / "blue" / "000.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        dataset.read(0, SMALL)


@pytest.mark.parametrize(
    ("name", "why"),
    [("cifar10", "say where"), ("nowhere", "there is no dataset 'nowhere'"), ("empty", "no class folders")],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=why):
        load(name)


def members(of: type) -> set[str]:
    return {name for name in vars(of) if not name.startswith("_")}


def test_a_derived_dataset_has_every_member_of_its_base_but_those_given() -> None:
    base = ArrayDataset(
        "blobs",
        "test",
        ("a", "b"),
        np.arange(10) % 2,
        np.zeros((10, 4, 4, 3), np.uint8),
        [f"{i}.png" for i in range(10)],
    )
    derived = DerivedDataset.of(base, name="others")
    assert derived.name == "others"
    assert members(Dataset) >= {"name", "own_classes", "read", "holdout"}
    for member in members(Dataset) - {"name"}:
        one, other = getattr(derived, member), getattr(base, member)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    with pytest.raises(TypeError):
        DerivedDataset.of(base, colour="red")


def test_of_very_many_images_ten_thousand_are_held_out() -> None:
    labels = np.zeros(300_000, np.int64)
    dataset = ArrayDataset("many", "train", ("one",), labels, np.empty((len(labels), 0, 0, 3), np.uint8), ())
    assert dataset.holdout().tolist() == list(range(290_000, 300_000))


def test_a_subset_has_its_own_images_and_those_of_the_holdout_that_are_among_them() -> None:
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    base = ArrayDataset("blobs", "test", ("a", "b"), np.arange(20) % 2, pixels, [f"{i}.png" for i in range(20)])
    part = subset(base, np.array([3, 19, 6]))
    assert part.labels.tolist() == [1, 1, 0]
    assert [part.source(i) for i in range(3)] == ["3.png", "19.png", "6.png"]
    assert part.read(1, Geometry.covering(4, 4)).max() == 19
    assert base.holdout().tolist() == [18, 19]
    assert part.holdout().tolist() == [1]
    assert len({base.content_hash(), part.content_hash(), subset(base, np.array([3])).content_hash()}) == 3
