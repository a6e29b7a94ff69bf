"""What an index makes and does not hold: keys and contact sheets on the disk, on their way into a bundle."""

import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.indexer.embedding.sheets import KeptSheet, Sheets
from secondlook.indexer.embedding.spool import Span, Spool
from secondlook.model.bundles.entry_table import Entries, Entry, contact_sheet, write_entries
from secondlook.model.errors import BundleError

SIDE = 16


def picture(grey: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), grey, np.uint8)


def greys(jpeg: bytes) -> list[int]:
    """Of each picture of a sheet, to the nearest ten."""
    with Image.open(io.BytesIO(jpeg)) as sheet:
        pixels = np.asarray(sheet.convert("L")).reshape(-1, SIDE * SIDE)
    return [int(10 * round(mean / 10)) for mean in pixels.mean(axis=1).tolist()]


@contextmanager
def full_disk(at: int) -> Iterator[None]:
    """No file of this process may be larger: the kernel then refuses a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_added_is_read_again_and_outlives_the_spool(tmp_path: Path) -> None:
    spool, keys = Spool(tmp_path), np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    spans = [spool.add(keys[start : start + 50].data) for start in range(0, 300, 50)]
    assert spans[2] == Span(2 * 50 * 7 * 4, 50 * 7 * 4)
    assert spool.read(spans[2]) == keys[100:150].tobytes()
    found = spool.array(np.float32, 300, 7)
    del spool
    np.testing.assert_array_equal(found, keys)
    assert not found.flags.writeable
    assert list(tmp_path.iterdir()) == []  # nobody has to sweep up after a process that is killed
    assert Spool(tmp_path).array(np.float32, 0, 7).shape == (0, 7)


def test_a_disk_that_is_full_or_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="absent cannot be written: No such file or directory"):
        Spool(tmp_path / "absent")
    spool = Spool(tmp_path)
    with full_disk(at=10_000), pytest.raises(BundleError, match="cannot be written: File too large"):
        spool.add(bytes(20_000))
    with Sheets(tmp_path) as sheets, full_disk(at=100):
        sheets.make(np.stack([picture(100)] * 8))
        with pytest.raises(BundleError, match="cannot be written: File too large"):
            sheets.arranged(np.zeros(8, np.int64), np.arange(8))


def test_sheets_come_in_order_however_many_are_on_their_way(tmp_path: Path) -> None:
    with Sheets(tmp_path) as sheets:
        numbers = [sheets.make(np.stack([picture(10 * i), picture(200)])) for i in range(20)]
        assert greys(sheets.made(7)) == [70, 200]
        kept = KeptSheet(contact_sheet(np.stack([picture(10), picture(90), picture(250)])), 3)
        number = sheets.take("file", 4, lambda: kept)
        assert sheets.take("file", 4, lambda: pytest.fail("it is there already")) == number == 20
        # Of the kept one, the first picture is of no entry.
        sheet = np.array([*np.repeat(numbers, 2), number, number, -1])
        place = np.array([*(0, 1) * 20, 2, 1, 0])
        arranged = sheets.arranged(sheet, place)
    assert place[-3:].tolist() == [1, 0, 0]
    for _ in range(2):  # they can be gone through again
        found = [greys(jpeg) for jpeg in arranged]
        assert found[:20] == [[10 * i, 200] for i in range(20)]
        assert found[20:] == [[90, 250]]


def test_a_mirrored_copy_shares_its_images_row_and_no_other_does(tmp_path: Path) -> None:
    count = 10_000
    entries = [Entry(i, f"{(i // 128) * 64 + i % 64}.png", i // 128 % 3, i % 128 >= 64, None) for i in range(2 * count)]
    write_entries(tmp_path / "entries.sqlite", iter(entries), iter(()), SIDE)
    kept = Entries(tmp_path / "entries.sqlite")
    assert kept.count == 2 * count
    assert kept.sources() == [entry.source for entry in entries]
    assert [kept.get(i) for i in (0, 63, 64, 4095, 4096, 4160, 2 * count - 1)] == [
        entries[i] for i in (0, 63, 64, 4095, 4096, 4160, 2 * count - 1)
    ]
    rows = kept._connection.execute("SELECT count(*), max(id) FROM images").fetchone()
    images = len({entry.source for entry in entries})
    assert rows == (images, images - 1)
