"""Where bundles lie that nobody named a folder for, and the key beside them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secondlook.model.bundles.home import bundles_home, local_key, made_home
from secondlook.model.errors import HomeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home of a user who has none yet."""
    folder = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_tests_keep_out_of_the_home_of_whoever_runs_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert bundles_home().is_relative_to(tmp_path_factory.getbasetemp())


def test_it_is_below_the_users_data_and_nothing_is_made_by_asking(data: Path) -> None:
    assert bundles_home() == data / "secondlook"
    assert not data.exists()


def test_without_a_variable_it_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bundles_home().is_relative_to(tmp_path)


def test_a_key_is_made_once_and_is_nobody_elses(data: Path) -> None:
    before = os.umask(0)
    try:
        key = local_key()
    finally:
        os.umask(before)
    assert re.fullmatch(r"slk_[A-Za-z0-9_-]{43}", key)
    assert (data / "secondlook" / "key").read_text() == f"{key}\n"
    assert mode(data / "secondlook" / "key") == 0o600
    assert mode(data / "secondlook") == 0o700
    assert [path.name for path in (data / "secondlook").iterdir()] == ["key"]
    assert local_key() == key


def test_first_starts_at_once_give_one_key(data: Path) -> None:
    wait = "import sys; from secondlook.model.bundles.home import local_key; sys.stdin.read(); print(local_key())"
    command = [sys.executable, "-c", wait]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(8)
    ]
    for process in started:  # all have been imported, or soon will be, and wait for this
        assert process.stdin is not None
        process.stdin.close()
    told = set()
    for process in started:
        assert process.stdout is not None
        told.add(process.stdout.read())
        process.stdout.close()
        assert process.wait(60) == 0
    assert told == {local_key() + "\n"}


def test_what_a_killed_start_left_is_removed_and_never_read(data: Path) -> None:
    left = made_home() / ".key.12345678"
    left.write_text("slk_half")
    local_key()
    assert not left.exists()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o666, 0o620, 0o602, 0o610])
def test_a_key_that_others_may_know_or_change_is_none(data: Path, bits: int) -> None:
    key = local_key()
    path = data / "secondlook" / "key"
    path.chmod(bits)
    with pytest.raises(HomeError, match=r"others may read .*key: remove it"):
        local_key()
    path.unlink()
    assert local_key() != key


def as_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def emptied(path: Path) -> None:
    path.write_text("")


def with_words(path: Path) -> None:
    path.write_text("open sesame, please let me in\n")


def short(path: Path) -> None:
    path.write_text("hunter2\n")


def of_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (as_a_link, "is a link"),
        (as_a_dangling_link, "is a link"),
        (as_a_folder, "is no file"),
        (as_a_pipe, "is no file"),
        (emptied, "does not hold a key"),
        (with_words, "does not hold a key"),
        (short, "does not hold a key"),
        (of_bytes, "does not hold a key"),
    ],
)
def test_what_is_no_key_is_refused_with_what_to_do(data: Path, spoil: Callable[[Path], None], why: str) -> None:
    local_key()
    path = data / "secondlook" / "key"
    spoil(path)
    with pytest.raises(HomeError, match=why) as refused:
        local_key()
    assert str(path) in str(refused.value)
    assert "remove it" in str(refused.value)


def test_a_home_that_others_may_change_is_refused(data: Path) -> None:
    made_home().chmod(0o770)
    with pytest.raises(HomeError, match="chmod 700"):
        local_key()


def test_a_home_that_cannot_be_made_is_refused(data: Path) -> None:
    data.write_text("a file, and no folder")
    with pytest.raises(HomeError, match="cannot be made"):
        local_key()


def test_a_home_whose_name_is_not_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/h\xff"))
    with pytest.raises(HomeError, match="is not UTF-8: set XDG_DATA_HOME"):
        local_key()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "m\xe9 \u2603"))
    local_key()


def test_a_home_of_another_user_is_refused(data: Path) -> None:
    home = made_home()
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(home, 12345, -1)
    with pytest.raises(HomeError, match="belongs to another user"):
        local_key()
    os.chown(home, 0, -1)
    local_key()
    os.chown(home / "key", 12345, -1)
    with pytest.raises(HomeError, match="belongs to another user"):
        local_key()


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user that the system does not know")
    program = (
        "import os; from secondlook.model.bundles.home import bundles_home; os.setuid(54321)\n"
        "try: print(bundles_home())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    ended = subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.startswith("HomeError this user has no home folder: set XDG_DATA_HOME"), ended
