"""Folders as people have them: each odd thing in one has one right behaviour (docs/datasets.md)."""

import json
import os
import socket
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import DEFAULT_LIMITS, load, load_to_cache, load_to_query, splits
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.left_out import LONGEST, LeftOut, Reason, printable, shortened
from secondlook.indexer.datasets.walk import read_image
from secondlook.model.errors import DatasetError, ImageError
from secondlook.model.images import Limits
from secondlook.model.networks.preprocess import CIFAR
from tests.images_for_tests import make_folder, make_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two images."""
    return make_folder(tmp_path / "colours", per_class=2)


def opened_folder(folder: Path, **options: bool) -> FolderDataset:
    dataset = load_to_cache(str(folder), "train", None, DEFAULT_LIMITS, **options)
    assert isinstance(dataset, FolderDataset)
    return dataset


def red(seed: int = 7) -> bytes:
    return make_image("red", seed=seed)


def sources(dataset: FolderDataset) -> set[str]:
    """Those beyond what the fixture has."""
    plain = {f"{colour}/00{i}.png" for colour in ("blue", "green", "red") for i in range(2)}
    return {dataset.source(i) for i in range(len(dataset.files))} - plain


def put(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints/a.png", "__MACOSX/a.png", "@eaDir/a.png", "lost+found/a.png", ".git/a.png"),
        *("$RECYCLE.BIN/a.png", "System Volume Information/a.png"),
        *("._001.png", "Thumbs.db", "desktop.ini", ".DS_Store"),
    ],
)
@pytest.mark.parametrize("where", [".", "red", "red/deeper"])
def test_what_systems_leave_is_left_out_quietly(folder: Path, where: str, name: str) -> None:
    put(folder / "red" / "deeper" / "a.png", red())
    put(folder / where / name, red())
    dataset = opened_folder(folder)
    assert dataset.classes == ("blue", "green", "red")
    assert sources(dataset) == {"red/deeper/a.png"}
    assert dataset.left_out.counts() == {"hidden or system": 1}


@pytest.mark.parametrize(
    "name", [b"photo.jfif", b"photo", b"photo.JPG", b"photo.txt", b"gr\xfcn.png", b"\xff", b"a\nb\t.png", b" a .png "]
)
def test_an_image_is_one_under_any_name(folder: Path, name: bytes) -> None:
    path = os.fsencode(folder / "red") + b"/" + name
    with open(path, "wb") as file:
        file.write(make_image("red", format="JPEG", seed=5))
    dataset = opened_folder(folder)
    (new,) = sources(dataset)
    assert new.isprintable()
    json.dumps(new).encode()
    assert new != "red/"
    position = [dataset.source(i) for i in range(len(dataset.files))].index(new)
    assert dataset.read(position, CIFAR.geometry).shape == (32, 32, 3)
    assert not len(dataset.left_out)


def test_no_two_names_are_written_alike() -> None:
    names = [b"a\xfc", b"a\\xfc", b"a\\\xfc", b"a\n", b"a\\x0a", b"a\\n", b"a\xc3\xbc", "a\u202e".encode(), b"a\\u202e"]
    assert len({printable(os.fsdecode(name)) for name in names}) == len(names)
    assert printable("München 🇩🇪/👩‍🌾.png") == "München 🇩🇪/👩‍🌾.png"
    assert len(shortened("x" * 1000)) < LONGEST + 10


def test_a_folder_that_is_called_like_an_image_is_a_folder(folder: Path) -> None:
    put(folder / "red" / "photo.png" / "inner.png", red())
    assert sources(opened_folder(folder)) == {"red/photo.png/inner.png"}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may not be long
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.filterwarnings("ignore:unclosed <socket")
@pytest.mark.parametrize("make", [pipe, listening, device])
@pytest.mark.parametrize("name", ["x.png", "x"])
def test_special_files_are_never_opened(folder: Path, make: Callable[[Path], None], name: str) -> None:
    make(folder / "red" / name)
    make(folder / name)
    found: list[FolderDataset] = []
    thread = threading.Thread(target=lambda: found.append(opened_folder(folder)), daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    assert found[0].left_out.counts() == {"special file": 2}
    assert not sources(found[0])


def test_a_file_that_becomes_a_pipe_does_not_hang(folder: Path) -> None:
    dataset = opened_folder(folder)
    (folder / "red" / "001.png").unlink()
    os.mkfifo(folder / "red" / "001.png")
    failed: list[Exception] = []

    def read() -> None:
        try:
            dataset.read(5, CIFAR.geometry)
        except ImageError as error:
            failed.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert [str(error) for error in failed] == ["it is no regular file"]


def test_a_file_that_vanishes_is_unreadable(folder: Path) -> None:
    dataset = opened_folder(folder)
    (folder / "red" / "001.png").unlink()
    with pytest.raises(ImageError, match="it cannot be read: No such file"):
        dataset.read(5, CIFAR.geometry)
    assert len(dataset.content_hash()) == 64


def test_linked_files_and_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "deep" / "far.png", red())
    (folder / "red" / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "red" / "one.png").symlink_to(tmp_path / "elsewhere" / "deep" / "far.png")
    dataset = opened_folder(folder)
    assert sources(dataset) == {"red/more/deep/far.png", "red/one.png"}
    assert not len(dataset.left_out)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "../blue", "../red", "twin"])
def test_no_loop_is_walked_and_no_folder_counted_twice(folder: Path, target: str) -> None:
    put(folder / "red" / "twin" / "a.png", red())
    (folder / "red" / "again").symlink_to(target)
    dataset = opened_folder(folder)
    assert sources(dataset) == {"red/twin/a.png"}
    assert dataset.left_out.counts() == {"linked twice": 1}
    assert dataset.left_out.of("red/again/").why


def test_a_class_that_is_only_a_link_to_another_is_refused(folder: Path) -> None:
    (folder / "a link").symlink_to("blue")
    with pytest.raises(DatasetError, match=r"a link has no images \(1 linked twice \(a link/\)\): add some"):
        opened_folder(folder)


def test_a_linked_class_folder_is_one(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png", red())
    (folder / "pink").symlink_to(tmp_path / "elsewhere")
    assert opened_folder(folder).classes == ("blue", "green", "pink", "red")


@pytest.mark.parametrize("target", ["nowhere.png", "x.png", "x.png/y"])
def test_broken_links_are_left_out(folder: Path, target: str) -> None:
    (folder / "red" / "x.png").symlink_to(target)
    assert opened_folder(folder).left_out.counts() == {"broken link": 1}


def test_what_is_no_image_is_counted_by_reason(folder: Path) -> None:
    put(folder / "red" / "notes.txt", b"no image")
    put(folder / "red" / "text.png", b"no image")
    put(folder / "red" / "empty.png")
    put(folder / "red" / "half.png", red()[:300])
    put(folder / "red" / "large.png", make_image("red", (300, 300)))
    put(folder / "loose.png", red())
    put(folder / "README.md", b"no image")
    dataset = load_to_cache(str(folder), "train", None, Limits(200 * 200))
    for position in range(len(dataset.labels)):
        try:
            dataset.read(position, CIFAR.geometry)
        except ImageError as error:
            dataset.left_out.note(dataset.source(position), error)
    assert dataset.left_out.counts() == {
        "damaged": 1,
        "empty": 1,
        "too large": 1,
        "not an image": 3,
        "in no class folder": 1,
    }
    assert dataset.left_out.said().startswith("1 damaged (red/half.png), 1 empty (red/empty.png), 1 too large (red/la")


def test_no_more_is_read_than_an_image_could_need(tmp_path: Path) -> None:
    path = tmp_path / "endless.png"
    with path.open("wb") as file:
        file.write(red()[:100])
        file.truncate(1 << 40)  # a hole: nothing on the disk
    with pytest.raises(ImageError, match="larger than any image of 10 pixels"):
        read_image(path, Limits(10))


def test_what_may_not_be_read_is_unreadable(folder: Path) -> None:
    put(folder / "red" / "secret" / "a.png", red())
    put(folder / "red" / "secret.jfif", red())
    put(folder / "red" / "secret.png", red())
    for path in ("secret", "secret.jfif", "secret.png"):
        (folder / "red" / path).chmod(0)
    if os.access(folder / "red" / "secret", os.R_OK):
        pytest.skip("this user may read everything")
    dataset = opened_folder(folder)
    assert dataset.left_out.counts() == {"unreadable": 2}
    assert sources(dataset) == {"red/secret.png"}
    with pytest.raises(ImageError, match="it cannot be read: Permission denied"):
        dataset.read(len(dataset.files) - 1, CIFAR.geometry)
    (folder / "red" / "secret").chmod(0o700)


def test_one_name_written_in_two_ways_is_one_class(folder: Path) -> None:
    for i, form in enumerate(("NFC", "NFD")):
        put(folder / unicodedata.normalize(form, "caf\u00e9") / f"{i}.png", red(i))
    dataset = opened_folder(folder)
    assert dataset.classes == ("blue", "caf\u00e9", "green", "red")
    assert (dataset.labels == 1).sum() == 2
    for position in range(len(dataset.files)):
        dataset.read(position, CIFAR.geometry)


def test_spaces_around_a_class_folder_are_none_of_its_name(folder: Path) -> None:
    put(folder / " red  " / "a.png", red())
    dataset = opened_folder(folder)
    assert dataset.classes == ("blue", "green", "red")
    assert sources(dataset) == {" red  /a.png"}


@pytest.mark.parametrize("like", ["Red", "RED", "\uff52ed"])
def test_classes_that_differ_by_little_are_refused(folder: Path, like: str) -> None:
    put(folder / like / "a.png", red())
    with pytest.raises(DatasetError, match="are too like each other for two classes") as caught:
        opened_folder(folder)
    assert "red/" in str(caught.value)
    assert f"{like}/" in str(caught.value)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"x" * 101, "\u202egnp".encode()])
def test_a_folder_whose_name_is_no_label_is_refused(folder: Path, name: bytes) -> None:
    path = os.fsencode(folder) + b"/" + name
    os.mkdir(path)
    with open(path + b"/a.png", "wb") as file:
        file.write(red())
    with pytest.raises(DatasetError, match="rename the folder") as caught:
        opened_folder(folder)
    assert str(caught.value).isprintable()


def test_a_class_without_images_is_refused_or_left_out(folder: Path) -> None:
    (folder / "cat").mkdir()
    put(folder / "dog" / "a.txt", b"no image")
    put(folder / "dog" / "b.png", b"no image")
    put(folder / "dog" / "c.png", red()[:200])
    why = (
        r"cat has no images \(its folder is empty\); dog has no images \(1 damaged \(dog/c.png\), "
        r"2 not an image \(dog/a.txt, dog/b.png\)\): add some, remove the folder, or leave them out with .*--skip-empty"
    )
    with pytest.raises(DatasetError, match=why):
        opened_folder(folder)
    dataset = opened_folder(folder, skip_empty=True)
    assert dataset.classes == ("blue", "green", "red")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(dataset.files) == 6
    # To ask a cache about such a folder is no mistake.
    asked = load_to_query(("blue", "green", "red"), str(folder), "test", None, DEFAULT_LIMITS)
    assert asked.classes == ("blue", "green", "red")
    assert load_to_query(("blue", "cat", "green", "red"), str(folder), "test", None, DEFAULT_LIMITS).classes == (
        *("blue", "cat", "green", "red"),
    )


def test_where_no_class_has_an_image_there_is_no_dataset(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "cat" / "a.txt", b"no image")
    with pytest.raises(DatasetError, match=r"no images in its class folders; left out: 1 not an image \(cat/a.txt\)"):
        load(str(tmp_path / "photos"))
    put(tmp_path / "photos" / "cat" / "a.png", b"no image")
    with pytest.raises(DatasetError, match="has no images that can be read: 2 not an image"):
        opened_folder(tmp_path / "photos", skip_empty=True)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation"])
def test_the_splits_of_a_folder(tmp_path: Path, val: str) -> None:
    for split in ("train", val, "test"):
        make_folder(tmp_path / "mine" / split, per_class=1)
    put(tmp_path / "mine" / "loose.png", red())
    put(tmp_path / "mine" / "raw" / "a.png", red())
    assert splits(str(tmp_path / "mine")) == ("train", "val", "test")
    for name in ("val", "valid", "validation"):
        dataset = load(str(tmp_path / "mine"), name)
        assert dataset.split == "val"
        assert dataset.classes == ("blue", "green", "red")
        assert dataset.left_out.counts() == {"in no class folder": 1, "beside the splits": 1}


def test_a_split_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val", "valid"):
        make_folder(tmp_path / "mine" / split, per_class=1)
    with pytest.raises(DatasetError, match="has both val/ and valid/ with class folders"):
        load(str(tmp_path / "mine"))


def test_unlabelled_test_images_are_no_class(tmp_path: Path) -> None:
    make_folder(tmp_path / "mine" / "train", per_class=1)
    put(tmp_path / "mine" / "test" / "1.png", red())
    assert load(str(tmp_path / "mine")).classes == ("blue", "green", "red")
    assert splits(str(tmp_path / "mine")) == ("train",)
    with pytest.raises(DatasetError, match="has train but no test/ with class folders"):
        load(str(tmp_path / "mine"), "test")


def test_a_folder_that_may_be_a_split_or_a_class_is_not_guessed(folder: Path) -> None:
    put(folder / "test" / "2019" / "a.png", red())
    with pytest.raises(DatasetError, match=r"not clear whether test/ in .* is a split or a class beside blue/: give"):
        load(str(folder))
    put(folder / "test" / "b.png", red(8))
    assert load(str(folder)).classes == ("blue", "green", "red", "test")
    assert splits(str(folder)) == ()


def test_without_splits_there_is_no_val(folder: Path) -> None:
    assert len(load(str(folder), "test").labels) == 6
    with pytest.raises(DatasetError, match="has no val/ with class folders"):
        load(str(folder), "val")
    with pytest.raises(DatasetError, match="choose train, val or test"):
        load(str(folder), "training")


def test_what_was_left_out_is_written_as_csv_and_json(tmp_path: Path) -> None:
    left_out = LeftOut()
    left_out.add(printable(os.fsdecode(b'a "b", \xff\n.png')), Reason.EMPTY, "the file is empty")
    left_out.add("b.png", Reason.SYSTEM)
    left_out.add("b.png", Reason.DAMAGED)  # noted once
    left_out.write(tmp_path / "left.csv")
    assert (tmp_path / "left.csv").read_text() == (
        'file,reason,why\n"a ""b"", \\xff\\x0a.png",empty,the file is empty\nb.png,hidden or system,hidden or system\n'
    )
    left_out.write(tmp_path / "left.json")
    told = json.loads((tmp_path / "left.json").read_text())
    assert told["left_out"] == {"empty": 1, "hidden or system": 1}
    assert told["left_out_files"][1] == {"file": "b.png", "reason": "hidden or system", "why": "hidden or system"}


@pytest.mark.parametrize(
    ("images", "held"),
    [
        ([40, 60], 10),
        ([50_000, 50_000], 10_000),
        ([100_000, 150_000, 1000], 10_000),
        ([2] * 15_000, 10_000),  # one of each class would be more
    ],
)
def test_a_tenth_is_held_out_and_ten_thousand_at_most(images: list[int], held: int) -> None:
    labels = np.repeat(np.arange(len(images)), images)
    names = tuple(f"class-{label:05d}" for label in range(len(images)))
    files = tuple(f"{names[label]}/{i}.png" for i, label in enumerate(labels.tolist()))
    dataset = FolderDataset("many", "train", names, labels, Path(), files, Limits(1), tuple((name,) for name in names))
    found = dataset.holdout()
    assert held - 1 <= len(found) <= held
    assert (np.diff(found) > 0).all()
    # The last ones of each class: of what is held out for more images, less is held out for fewer.
    ends = np.cumsum(images)[labels[found]]
    counts = np.array(images)[labels[found]]
    assert (ends - found <= np.maximum(1, np.round(counts / 10))).all()
