"""Folders of photos as people give them: what is wrong is said with what to do, and what has changed is seen."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from secondlook.indexer.photos import Noted, look, root_name
from secondlook.model.errors import DatasetError
from secondlook.model.images import DEFAULT_PIXELS, Limits
from tests.images_for_tests import make_folder, make_image

LIMITS = Limits(DEFAULT_PIXELS)


def put(path: Path, colour: str = "red", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_image(colour, seed=seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", per_class=3)


def flat(here: Path) -> Path:
    put(here / "photos" / "1.png")
    return here / "photos"


def nothing_in_it(here: Path) -> Path:
    (here / "photos").mkdir()
    return here / "photos"


def one_class(here: Path) -> Path:
    put(here / "photos" / "cat" / "1.png")
    return here / "photos"


def one_too_high(here: Path) -> Path:
    put(here / "photos" / "pets" / "cat" / "1.png")
    put(here / "photos" / "pets" / "dog" / "1.png")
    return here / "photos"


def no_photos(here: Path) -> Path:
    (here / "photos" / "cat").mkdir(parents=True)
    (here / "photos" / "cat" / "notes.txt").write_text("a text")
    return here / "photos"


def only_a_test_split(here: Path) -> Path:
    make_folder(here / "photos" / "test", per_class=1)
    return here / "photos"


def archive(here: Path) -> Path:
    shutil.make_archive(str(here / "photos"), "zip", make_folder(here / "colours", per_class=1))
    return here / "photos.zip"


def packed(here: Path) -> Path:
    shutil.make_archive(str(here / "photos"), "gztar", make_folder(here / "colours", per_class=1))
    return here / "photos.tar.gz"


def one_photo(here: Path) -> Path:
    put(here / "cat.png")
    return here / "cat.png"


def text(here: Path) -> Path:
    (here / "notes.txt").write_text("a text")
    return here / "notes.txt"


def absent(here: Path) -> Path:
    return here / "photos"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (flat, "has photos, but no class folders: make .*photos/cat/1.jpg and .*; .*: secondlook embed .*photos$"),
        (nothing_in_it, "has no class folders: make a folder for each class, such as .*photos/cat/1.jpg"),
        (one_class, r"photos of one class only, cat: .*photos/other/1.jpg$"),
        (one_too_high, "one class only, pets: .*: secondlook start .*photos/pets$"),
        (no_photos, r"no images in its class folders; left out: 1 not an image \(cat/notes.txt\)"),
        (only_a_test_split, "has test but no train/ with class folders: .*: secondlook start .*photos/test$"),
        (archive, "is an archive: unpack it, then: secondlook start .*photos$"),
        (packed, "is an archive: unpack it, then: secondlook start .*photos$"),
        (one_photo, "is a file: give a folder .*: secondlook classify .*cat.png$"),
        (text, "notes.txt is a file: give a folder that has a folder of photos for each class$"),
        (absent, "there is no folder .*photos: give one"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused_with_what_to_do(
    made: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=said) as refused:
        look(made(tmp_path), LIMITS)
    assert "\n" not in str(refused.value)


def test_a_class_without_a_photo_is_left_out_and_named(folder: Path) -> None:
    (folder / "yellow").mkdir()
    (folder / "white").mkdir()
    (folder / "white" / "1.jpg").write_bytes(b"no photo")
    found = look(folder, LIMITS)
    assert found.empty == ("white", "yellow")
    assert found.dataset.classes == ("blue", "green", "red")


def test_a_link_to_a_folder_is_that_folder(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert look(link, LIMITS).folder == folder
    assert root_name(link) == root_name(folder)


def test_a_split_val_is_the_holdout(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos" / "train", per_class=2)
    make_folder(tmp_path / "photos" / "validation", per_class=1)
    found = look(tmp_path / "photos", LIMITS)
    assert found.holdout is not None
    assert (len(found.dataset.labels), len(found.holdout.labels)) == (6, 3)


def add(folder: Path) -> None:
    put(folder / "red" / "new.png", seed=99)


def remove(folder: Path) -> None:
    (folder / "red" / "000.png").unlink()


def move(folder: Path) -> None:
    (folder / "red" / "000.png").rename(folder / "blue" / "moved.png")


def replace(folder: Path) -> None:
    put(folder / "red" / "000.png", seed=99)
    os.utime(folder / "red" / "000.png", ns=(1, 1))


def add_a_class(folder: Path) -> None:
    put(folder / "white" / "1.png", seed=99)


@pytest.mark.parametrize("change", [add, remove, move, replace, add_a_class])
def test_a_change_of_the_photos_is_seen(change: Callable[[Path], None], folder: Path) -> None:
    before = Noted.of(look(folder, LIMITS), "network")
    assert Noted.of(look(folder, LIMITS), "network") == before
    change(folder)
    assert Noted.of(look(folder, LIMITS), "network") != before


def test_what_is_no_photo_changes_nothing(folder: Path) -> None:
    before = Noted.of(look(folder, LIMITS), "network")
    (folder / "red" / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("a text")
    assert Noted.of(look(folder, LIMITS), "network") == before


def test_a_root_remembers_what_it_was_made_of_while_a_bundle_is_active(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    noted = Noted.of(look(folder, LIMITS), "network")
    noted.write(root)
    assert Noted.read(root) is None
    (root / "CURRENT").write_text("a generation")
    assert Noted.read(root) == noted
    for damaged in ("", "[]", '{"photos": 1}', "{"):
        (root / "photos.json").write_text(damaged)
        assert Noted.read(root) is None


@pytest.mark.parametrize("name", ["photos", "my photos", "ünï", "a\nb", "x" * 250, ".hidden", "-dash"])
def test_a_root_is_called_like_its_folder_and_like_no_other(name: str, tmp_path: Path) -> None:
    found = root_name(tmp_path / "one" / name)
    assert found.isprintable()
    assert not found.startswith(".")
    assert len(os.fsencode(found)) < 100
    assert found != root_name(tmp_path / "two" / name)
    (tmp_path / found).mkdir()
