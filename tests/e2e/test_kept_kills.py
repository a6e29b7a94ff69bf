"""An index that is killed at any moment goes on, and embeds nothing twice that was kept."""

from pathlib import Path

import pytest

from benchmarks.kept import indexed, killed, make_photos
from tests.networks_for_tests import classifier, written


@pytest.mark.soak  # 50 processes
def test_an_index_that_is_killed_again_and_again_embeds_nothing_twice(tmp_path: Path) -> None:
    photos, root = tmp_path / "photos", tmp_path / "root"
    make_photos(photos, 60, 48)
    indexed(photos, root, str(written(classifier(), tmp_path)))
    make_photos(photos, 3000, 400, first=60)
    found = killed(photos, root, 50, 10.0)
    assert (found.kept, found.twice) == (3060, 0)
    assert found.last.images == 3060
    again = indexed(photos, root)
    assert (again.embedded, again.known) == (0, 3060)


def test_the_command_says_how_many_images_were_new(tmp_path: Path) -> None:
    photos, root = tmp_path / "photos", tmp_path / "root"
    make_photos(photos, 60, 48)
    network = str(written(classifier(), tmp_path))
    assert (first := indexed(photos, root, network)).embedded == first.images == 60
    make_photos(photos, 3, 48, first=60)
    again = indexed(photos, root)
    assert (again.embedded, again.known) == (3, 60)
