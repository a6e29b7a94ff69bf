"""What was taught, written out and taken in elsewhere."""

import json
from pathlib import Path

import pytest

from secondlook.indexer.added_entries import IMAGES, LINES, export_added, import_added
from secondlook.model.errors import LabelTakenError, ParameterError
from secondlook.model.images import DEFAULT_PIXELS, Limits
from secondlook.model.journal import Correction, Journal, NewImage
from tests.images_for_tests import make_image
from tests.odd_images import HEIC

LIMITS = Limits(DEFAULT_PIXELS)
ONE, TWO = make_image("red"), make_image("blue", format="JPEG")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "here")
    journal.add("crab", [NewImage("one.png", ONE), NewImage("gone.png", ONE)], "alice")
    journal.add("lobster ☃", [NewImage("two.jpg", TWO)], "alice")
    journal.correct_image(2, None, "alice")
    journal.correct("photos", "cat/1.png", "dog", "alice", own="cat")
    journal.correct("photos", "cat/2.png", None, "alice", own="cat")
    assert export_added(journal, tmp_path / "out") == (2, 2, 0)
    return tmp_path / "out"


def test_all_of_it_arrives_and_arrives_once(written: Path, tmp_path: Path) -> None:
    assert {path.name for path in (written / IMAGES).iterdir()} == {"1.png", "3.jpg"}
    there = Journal(tmp_path / "there")
    assert import_added(there, written, "bob", LIMITS) == (2, 2, 0)
    state = there.since(0)
    assert [image.label for image in state.images] == ["crab", "lobster ☃"]
    assert [there.content(image.number) for image in state.images] == [ONE, TWO]
    assert there.image(1) == ("crab", "one.png", ONE)
    assert set(state.corrections) == {
        Correction("photos", "cat/1.png", "dog"),
        Correction("photos", "cat/2.png", None),
    }
    assert {change.key for change in there.changes()} == {"bob"}
    assert import_added(there, written, "bob", LIMITS) == (0, 2, 2)
    assert len(there.since(0).images) == 2


def test_what_was_found_right_goes_along(tmp_path: Path) -> None:
    journal, there = Journal(tmp_path / "here"), Journal(tmp_path / "there")
    journal.add("crab", [NewImage("one.png", ONE), NewImage("two.png", TWO)], "alice")
    journal.confirmations.add("photos", "taught:2", "crab", "alice", own=None)
    journal.confirmations.add("photos", "cat/1.png", "cat", "alice", own="cat")
    journal.add("eel", [NewImage("three.png", ONE)], "alice")
    journal.confirmations.add("photos", "taught:3", "eel", "alice", own=None)
    journal.correct_image(3, "crab", "alice")  # it is not confirmed as that
    there.add("whale", [NewImage("", ONE)], "bob")  # numbers are others there
    assert export_added(journal, tmp_path / "out") == (3, 1, 0)
    for _ in range(2):
        import_added(there, tmp_path / "out", "bob", LIMITS)
        assert there.image(3) == ("crab", "two.png", TWO)
        assert there.confirmations.of("photos") == {"taught:3": "crab", "cat/1.png": "cat"}
    assert sum(change.action == "confirmed" for change in there.changes()) == 2


def test_images_of_every_format_are_written_and_taken_in(tmp_path: Path) -> None:
    formats = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    images = [*(make_image("red", format=format) for format in formats), HEIC]
    journal = Journal(tmp_path / "here")
    journal.add("crab", [NewImage("", image) for image in images], "alice")
    export_added(journal, tmp_path / "out")
    endings = {path.suffix for path in (tmp_path / "out" / IMAGES).iterdir()}
    assert endings == {".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".avif", ".heic"}
    assert import_added(Journal(tmp_path / "there"), tmp_path / "out", "bob", LIMITS).images == len(images)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 5: it is not JSON"),
        ("[]", "line 5: it is neither"),
        ('{"image": "images/1.png"}', "line 5: it is neither"),
        ('{"image": "../secret.png", "label": "a"}', "line 5: its image lies outside"),
        ('{"image": "/etc/passwd", "label": "a"}', "line 5: its image lies outside"),
        ('{"image": "images/link.png", "label": "a"}', "line 5: its image lies outside"),
        ('{"image": "images/none.png", "label": "a"}', "line 5: images/none.png cannot be read"),
        ('{"image": "taught.jsonl", "label": "a"}', "line 5: taught.jsonl: the file is not one of"),
        ('{"image": "images/1.png", "label": "a", "sha256": "00"}', "line 5: images/1.png is damaged"),
    ],
)
def test_what_is_amiss_is_named_and_nothing_is_taught(written: Path, tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "secret.png").write_bytes(ONE)
    (written / IMAGES / "link.png").symlink_to(tmp_path / "secret.png")
    with (written / LINES).open("a") as lines:
        lines.write(line + "\n")
    there = Journal(tmp_path / "there")
    with pytest.raises(ParameterError, match=why):
        import_added(there, written, "bob", LIMITS)
    assert there.newest() == 0


def test_folders_that_will_not_do(written: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="not empty"):
        export_added(Journal(tmp_path / "here"), written)
    with pytest.raises(ParameterError, match=LINES):
        import_added(Journal(tmp_path / "there"), tmp_path, "bob", LIMITS)
    Journal(tmp_path / "there").add("Crab", [NewImage("a", ONE)], "alice")
    with pytest.raises(LabelTakenError):
        import_added(Journal(tmp_path / "another"), written, "bob", LIMITS, ("Crab",))
    assert Journal(tmp_path / "another").newest() == 0
    with pytest.raises(LabelTakenError):
        import_added(Journal(tmp_path / "there"), written, "bob", LIMITS)


def test_a_line_is_what_the_docs_say(written: Path) -> None:
    first = json.loads((written / LINES).read_text().splitlines()[0])
    assert first.keys() == {"image", "sha256", "label", "name"}
