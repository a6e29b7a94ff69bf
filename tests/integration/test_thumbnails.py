"""The small pictures that a bundle keeps of its entries."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.model.bundles.entry_table import Entries, Entry, contact_sheet, thumbnail_size, write_entries

COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220))


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((32, 32), (32, 32)),  # as they are
        ((96, 128), (96, 128)),
        ((224, 224), (128, 128)),
        ((1200, 1200), (128, 128)),  # 64 of these below each other are too high for a JPEG
        ((384, 1000), (49, 128)),
        ((2000, 3), (128, 1)),
    ],
)
def test_pictures_of_any_size_are_kept_small(size: tuple[int, int], shown: tuple[int, int], tmp_path: Path) -> None:
    images = np.broadcast_to(np.array([COLOURS[i % 3] for i in range(64)], np.uint8)[:, None, None], (64, *size, 3))
    sheet = contact_sheet(np.ascontiguousarray(images))
    entries = [Entry(i, f"{i}.png", 0, False, 0, i) for i in range(64)]
    write_entries(tmp_path / "entries.sqlite", entries, [sheet], thumbnail_size(*size)[0])
    kept = Entries(tmp_path / "entries.sqlite")
    for i in (0, 1, 31, 63):
        png = kept.thumbnail(entries[i])
        assert png is not None
        with Image.open(io.BytesIO(png)) as image:
            assert (image.height, image.width) == thumbnail_size(*size) == shown
            middle = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        np.testing.assert_allclose(middle, COLOURS[i % 3], atol=16)
