"""The journal of what was taught: real files, several connections, processes that die, disks without room."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.model.errors import AddedLimitError, JournalError, LabelTakenError, RepeatedRequestError
from secondlook.model.journal import (
    JOURNAL,
    AddedImage,
    Addition,
    Correction,
    Journal,
    Request,
)
from tests.journal_for_tests import KEY, image, token_of, told


def answer(kept: Addition) -> str:
    return f"{kept.numbers} {kept.change}"


def test_what_is_taught_is_there_for_others(tmp_path: Path) -> None:
    other = Journal(tmp_path)
    assert told(other) == (0, [], [], {})
    assert not (tmp_path / JOURNAL).exists()
    journal = Journal(tmp_path)
    journal.add("lobster", [image(b"one", "e"), image(b"two")], "alice", known=("cat",))
    assert told(other) == (2, [AddedImage(1, "lobster"), AddedImage(2, "lobster")], [], {1: "lobster"})
    assert told(other, 1)[1] == [AddedImage(2, "lobster")]
    assert other.content(2) == b"two"
    assert other.content(3) is None
    keys = other.keys("e")
    assert list(keys) == [(1, False)]
    assert keys[1, False].tolist() == KEY.tolist()
    assert other.keys("another") == {}
    other.keep_keys("another", {(1, True): 2 * KEY, (1, False): KEY})
    other.keep_keys("another", {(1, True): KEY})
    assert journal.keys("another")[1, True].tolist() == (2 * KEY).tolist()


def test_labels_change_and_images_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("lobster", [image(b"secret", "e")], "alice")
    assert journal.correct_image(1, "crab", "bob") == "lobster"
    assert told(journal, 1)[1] == [AddedImage(1, "crab")]
    assert journal.correct_image(1, "crab", "bob") == "crab"
    assert journal.newest() == 2
    assert journal.correct_image(1, None, "carol") == "crab"
    assert told(journal, 2)[1] == [AddedImage(1, None)]
    assert journal.content(1) is None
    assert journal.keys("e") == {}
    journal.keep_keys("e", {(1, False): KEY})
    assert journal.keys("e") == {}
    assert journal.correct_image(1, "crab", "bob") is None
    assert journal.correct_image(2, None, "bob") is None
    assert [(c.action, c.key, c.label, c.was) for c in journal.changes()] == [
        ("removed", "carol", None, "crab"),
        ("relabelled", "bob", "crab", "lobster"),
        ("taught", "alice", "lobster", None),
    ]
    assert [c.number for c in journal.changes(before=3, limit=1)] == [2]
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_decisions_about_a_datasets_images(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.correct("photos", "cat/1.png", "dog", "alice", own="cat", known=("cat", "dog"))
    journal.correct("photos", "cat/2.png", None, "alice", own="cat")
    assert journal.correct("photos", "cat/1.png", None, "alice", own="cat") == "dog"
    changed = journal.since(0)
    assert changed.labels == {}
    assert changed.corrections == [Correction("photos", "cat/2.png", None), Correction("photos", "cat/1.png", None)]
    assert told(journal, 2)[2] == [Correction("photos", "cat/1.png", None)]
    # What is removed stays so; what is as asked already is not written again.
    assert journal.correct("photos", "cat/1.png", "dog", "alice", own="cat") is None
    assert journal.correct("photos", "cat/3.png", "cat", "alice", own="cat", known=("cat",)) == "cat"
    assert journal.newest() == 3
    assert [change.was for change in journal.changes()] == ["dog", "cat", "cat"]


def test_a_repeated_request_is_answered_and_not_done_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    request = Request("id", b"digest")
    first = journal.add("crab", [image()], "alice", request=request, answer=answer)
    assert first == ("[1] 1", False)
    assert Journal(tmp_path).add("crab", [image()], "alice", request=request, answer=answer) == ("[1] 1", True)
    with pytest.raises(RepeatedRequestError):
        journal.add("crab", [image()], "alice", request=Request("id", b"other"))
    # Another key's ids are its own.
    assert journal.add("crab", [image()], "bob", request=request, answer=answer) == ("[2] 2", False)


def test_two_processes_cannot_name_one_class_twice(tmp_path: Path) -> None:
    Journal(tmp_path).add("Lobster", [image()], "alice")
    with pytest.raises(LabelTakenError) as caught:
        Journal(tmp_path).add("lobster", [image()], "bob")
    assert caught.value.known == "Lobster"
    assert Journal(tmp_path).newest() == 1


def test_a_label_that_nothing_has_any_more_may_be_written_otherwise(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("lobster", [image()], "alice")
    journal.correct_image(1, None, "alice")
    journal.add("Lobster", [image()], "alice")
    assert journal.since(0).labels == {1: "Lobster"}
    assert told(journal, 2)[3] == {1: "Lobster"}


def test_no_more_than_so_many_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("crab", [image(), image()], "alice", most=3)
    with pytest.raises(AddedLimitError):
        journal.add("crab", [image(), image()], "alice", most=3)
    journal.correct_image(1, None, "alice")
    journal.add("crab", [image(), image()], "alice", most=3)
    assert [i.number for i in journal.since(0).images if i.label] == [2, 3, 4]


def test_all_images_of_a_call_are_kept_or_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("crab", [image()], "alice")
    with pytest.raises(ZeroDivisionError):
        journal.add("crab", [image(), image()], "alice", answer=lambda kept: str(1 // 0))
    assert journal.newest() == 1
    assert len(Journal(tmp_path).since(0).images) == 1


def test_a_root_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("crab", [image(b"one")], "alice")
    program = (
        "import os, sys; from pathlib import Path\n"
        "from secondlook.model.journal import Journal, NewImage\n"
        "from secondlook.model.errors import JournalError\n"
        "os.setuid(65534)\n"
        "journal = Journal(Path(sys.argv[1])); print(journal.since(0).images, journal.content(1))\n"
        "try: journal.add('crab', [NewImage('a', b'b')], 'k')\n"
        "except JournalError as error: print('refused')"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not write")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert "[AddedImage(number=1, label='crab')] b'one'" in said.stdout, said.stderr
    assert "refused" in said.stdout


@pytest.mark.parametrize("content", [b"no database at all, but of some length " * 50, b"SQLite format 3\0damaged"])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(JournalError, match=JOURNAL):
        Journal(tmp_path).since(0)


def test_another_versions_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / JOURNAL) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="version 99"):
        Journal(tmp_path)


WRITER = """
import sys
from pathlib import Path
from secondlook.model.journal.journal import Journal, NewImage, Request
journal = Journal(Path(sys.argv[1]))
for i in range(10_000):
    journal.add("crab", [NewImage("a", bytes(20_000))] * 2, "k", request=Request(f"{sys.argv[2]} {i}", b""),
        answer=lambda kept: str(kept.numbers))
    print(i, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged = 0
    for life in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(life)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        for _ in range(3 + 5 * life):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged += 3 + 5 * life + len(process.stdout.readlines())
        process.stdout.close()
        process.wait()
        images = Journal(tmp_path).since(0).images
        # The last call of each life may have been done and not acknowledged; each is done whole.
        assert 2 * acknowledged <= len(images) <= 2 * (acknowledged + life + 1)
        assert len(images) % 2 == 0
        assert all(Journal(tmp_path).content(i.number) == bytes(20_000) for i in images[-4:])


VERSION_1 = """
CREATE TABLE images (number INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT, name TEXT NOT NULL, content BLOB,
    change INTEGER NOT NULL) STRICT;
CREATE INDEX images_by_change ON images (change);
CREATE TABLE keys (image INTEGER NOT NULL, encoder TEXT NOT NULL, mirrored INTEGER NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (image, encoder, mirrored)) STRICT;
CREATE TABLE corrections (dataset TEXT NOT NULL, source TEXT NOT NULL, label TEXT, change INTEGER NOT NULL,
    PRIMARY KEY (dataset, source)) STRICT;
CREATE INDEX corrections_by_change ON corrections (change);
CREATE TABLE labels (position INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL UNIQUE,
    folded TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, key TEXT NOT NULL,
    action TEXT NOT NULL, image INTEGER, dataset TEXT, source TEXT NOT NULL, label TEXT, was TEXT) STRICT;
CREATE TABLE requests (key TEXT NOT NULL, request TEXT NOT NULL, digest BLOB NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (key, request)) STRICT;
PRAGMA user_version = 1;
INSERT INTO images VALUES (1, 'crab', 'a.png', x'01', 1), (2, NULL, 'b.png', NULL, 3), (3, 'bee', 'c.png', x'03', 4);
INSERT INTO keys VALUES (1, 'e', 0, x'0000803f'), (3, 'e', 0, x'00000040');
INSERT INTO corrections VALUES ('photos', 'cat/1.png', 'crab', 5);
INSERT INTO labels VALUES (1, 'crab', 'crab'), (2, 'bee', 'bee');
INSERT INTO changes VALUES (1, 'then', 'k', 'taught', 1, NULL, 'taught:1', 'crab', NULL),
    (2, 'then', 'k', 'taught', 2, NULL, 'taught:2', 'crab', NULL),
    (3, 'then', 'k', 'removed', 2, NULL, 'taught:2', NULL, 'crab'),
    (4, 'then', 'k', 'taught', 3, NULL, 'taught:3', 'bee', NULL),
    (5, 'then', 'k', 'relabelled', NULL, 'photos', 'cat/1.png', 'crab', 'cat');
INSERT INTO requests VALUES ('k', 'one', x'00', 'first');
"""


def version_1(root: Path) -> sqlite3.Connection:
    """A journal as it was before, its last changes in a write-ahead log that was not folded in."""
    connection = sqlite3.connect(root / JOURNAL, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_1)
    return connection


def test_a_journal_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    before = version_1(tmp_path / "old")
    assert (tmp_path / "old" / f"{JOURNAL}-wal").stat().st_size > 0
    for path in (tmp_path / "old").iterdir():  # as after a kill
        shutil.copy(path, tmp_path)
    before.close()
    journal = Journal(tmp_path)
    # All of it is in one file.
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and path.stat().st_size] == [JOURNAL]
    images = [AddedImage(1, "crab"), AddedImage(2, None), AddedImage(3, "bee")]
    assert told(journal) == (5, images, [Correction("photos", "cat/1.png", "crab")], {1: "crab", 2: "bee"})
    assert journal.content(3) == b"\x03"
    assert journal.thumbnail(1) is None
    journal.keep_thumbnail(1, b"png")
    journal.keep_thumbnail(2, b"png")
    assert (journal.thumbnail(1), journal.thumbnail(2)) == (b"png", None)
    assert journal.answered("k", Request("one", b"\x00")) == "first"
    assert len({token_of(journal, change) for change in range(1, 6)}) == 5
    with pytest.raises(AddedLimitError):
        journal.add("crab", [image()], "k", most=2)
    with pytest.raises(LabelTakenError):
        journal.add("Crab", [image()], "k")
    journal.add("crab", [image()], "k", most=3)
    assert Journal(tmp_path).newest() == 6


def test_a_log_of_another_journal_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    before = version_1(tmp_path / "old")
    journal = Journal(tmp_path)
    journal.add("ant", [image(b"mine")], "k")
    for end in ("-wal", "-shm"):
        shutil.copy(tmp_path / "old" / f"{JOURNAL}{end}", tmp_path)
    before.close()
    for one in (journal, Journal(tmp_path)):
        assert told(one) == (1, [AddedImage(1, "ant")], [], {1: "ant"})
    journal.add("ant", [image()], "k")
    assert (tmp_path / f"{JOURNAL}-wal.of-another").stat().st_size > 0
    assert Journal(tmp_path).newest() == 2


def test_a_journal_that_is_replaced_while_it_is_written_to_is_not_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("ant", [image()], "k")
    shutil.copy(tmp_path / JOURNAL, tmp_path / "copy")

    def replaced(kept: Addition) -> str:
        (tmp_path / "copy").replace(tmp_path / JOURNAL)
        return ""

    with pytest.raises(JournalError, match="replaced while this was being kept"):
        journal.add("ant", [image()], "k", answer=replaced)
    assert journal.newest() == 1
    journal.add("ant", [image()], "k")
    assert Journal(tmp_path).newest() == 2


def test_a_stamp_is_another_after_each_change(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    stamps = [other.stamp()]
    for _ in range(50):
        journal.add("ant", [image()], "k")
        stamps.append(other.stamp())
        assert other.stamp() == stamps[-1]
    assert len(set(stamps)) == 51
    assert None not in stamps
    # A file system that keeps whole seconds: whoever asks has to look.
    os.utime(tmp_path / JOURNAL, (10**9, 10**9))
    assert other.stamp() is None


def test_a_journal_that_was_emptied_is_none_that_is_new(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    journal.add("ant", [image()], "k")
    kept = (tmp_path / JOURNAL).read_bytes()
    assert other.newest() == 1
    for emptied in (lambda: os.truncate(tmp_path / JOURNAL, 0), lambda: _replace_by_an_empty_one(tmp_path / JOURNAL)):
        emptied()
        for one in (journal, other):
            for call in (one.newest, one.since, lambda: one.add("bee", [image()], "k")):  # noqa: B023 - called at once
                with pytest.raises(JournalError, match="is empty, and was not: put it back"):
                    call()
        assert (tmp_path / JOURNAL).stat().st_size == 0
    (tmp_path / JOURNAL).write_bytes(kept)
    assert journal.newest() == other.newest() == 1


def _replace_by_an_empty_one(path: Path) -> None:
    path.unlink()
    path.touch()


def test_a_journal_without_its_folder_says_so(tmp_path: Path) -> None:
    root = tmp_path / "root"
    journal = Journal(root)
    journal.add("ant", [image()], "k")
    shutil.rmtree(root)
    for call in (
        journal.newest,
        lambda: journal.add("ant", [image()], "k"),
        lambda: journal.correct_image(1, None, "k"),
    ):
        with pytest.raises(JournalError, match="is gone: put it back"):
            call()
    assert not root.exists()
