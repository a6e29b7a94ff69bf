"""A home, a key or a disk that will not do costs teaching, and neither answers nor what was taught."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Server, fill
from tests.e2e.test_at_home import answer, link, spotted, teach, teachable
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
CANNOT = "this server cannot be taught"


def test_a_key_that_others_may_read_opens_nothing(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    key = link(first)[1]
    assert teach(first, key).status_code == 201
    first.stop()
    path = tmp_path / "data-home" / "secondlook" / "key"
    path.chmod(0o644)
    server = serve()
    assert f"{CANNOT}: others may read {path}" in server.log.read_text()
    assert answer(server, spotted(9)) == "spotted"
    assert teach(server, key).status_code == 403
    assert teachable(server)[0] is False


def test_a_home_that_cannot_be_made_leaves_the_default_bundle(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    server = serve(data_home=tmp_path / "file" / "data")
    (said,) = [line for line in server.log.read_text().splitlines() if CANNOT in line]
    assert "Not a directory" in said
    assert "SECONDLOOK_BUNDLES and SECONDLOOK_ADMIN_KEY" in said
    assert answer(server, make_image("red"))
    assert teachable(server) == (
        False,
        "The default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart.",
    )


@pytest.mark.parametrize("kilobytes", [0, 4096], ids=lambda kilobytes: f"{kilobytes} KiB left")
def test_a_full_disk_leaves_the_default_bundle(serve: Serve, small_disk: Callable[[str], Path], kilobytes: int) -> None:
    disk = small_disk("size=20m")
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - kilobytes * 1024)
    server = serve(data_home=disk)
    (said,) = [line for line in server.log.read_text().splitlines() if CANNOT in line]
    assert "No space left on device" in said
    assert answer(server, make_image("red"))
    assert teachable(server)[0] is False
    # Nothing is left of the half that was written; with room, the next start is taught.
    server.stop()
    assert list((disk / "secondlook").glob("default/.*.draft/*")) == []
    ballast.unlink()
    with_room = serve(data_home=disk)
    assert teach(with_room, link(with_room)[1]).status_code == 201


def test_what_was_taught_is_answered_from_a_disk_that_is_read_only_now(
    serve: Serve, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=64m")
    first = serve(data_home=disk)
    key = link(first)[1]
    assert teach(first, key).status_code == 201
    first.stop()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    server = serve(data_home=disk)
    assert answer(server, spotted(9)) == "spotted"
    can, why = teachable(server)
    assert not can
    assert why == "What is taught cannot be kept: the disk is read-only."
    assert teach(server, key).status_code in (500, 503, 507)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert teachable(server) == (True, None)
    assert teach(server, key, "blank").status_code == 201
    fill(disk)
    assert teachable(server) == (False, "There is no room to keep what was sent: nothing of it was kept.")
