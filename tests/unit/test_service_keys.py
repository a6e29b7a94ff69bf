import re
from hashlib import sha256
from pathlib import Path

import pytest

from secondlook.service.errors import KeysError
from secondlook.service.http import keys as service_keys
from secondlook.service.http.keys import FROM_ENVIRONMENT, Keys, new_key, read_keys
from tests.service_for_tests import settings


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_keys, "LOOK_SECONDS", 0.0)


def test_a_new_key_is_random_and_only_its_hash_is_kept() -> None:
    secret, key = new_key("alice", "admin")
    assert re.fullmatch(r"slk_[A-Za-z0-9_-]{43}", secret)
    assert secret not in key.line
    assert key.line == f"alice admin {sha256(secret.encode()).hexdigest()}"
    assert new_key("alice", "admin")[0] != secret


def test_reads_lines_and_skips_comments(tmp_path: Path) -> None:
    made = [new_key("alice", "admin")[1], new_key("line-3", "predict")[1]]
    path = tmp_path / "keys"
    path.write_text(
        f"# ours\n\n{made[0].line}\n  {made[1].line.upper().replace('LINE', 'line').replace('PREDICT', 'predict')}\n"
    )
    assert read_keys(path) == made


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("alice admin", "line 1: a line is a name, admin or predict, and 64 hexadecimal digits"),
        (f"\nalice root {'0' * 64}", "line 2: a line is"),
        (f"alice admin {'0' * 63}", "line 1: a line is"),
        (f"alice admin {'0' * 64} more", "line 1: a line is"),
        (f"-x admin {'0' * 64}", "line 1: a name is"),
        (f"{FROM_ENVIRONMENT} admin {'0' * 64}", "line 1: a name is"),
        (f"a admin {'0' * 64}\na predict {'1' * 64}", "line 2: the name a is used twice"),
    ],
)
def test_a_wrong_line_is_one_sentence_with_its_number(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(KeysError, match=re.escape(f"{path}, {what}")):
        read_keys(path)


def test_a_key_pasted_in_plain_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice admin slk_secret")
    with pytest.raises(KeysError) as raised:
        read_keys(path)
    assert "slk_secret" not in str(raised.value)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read: No such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KeysError, match="is not text"):
        read_keys(tmp_path / "binary")


def test_finds_each_key_and_no_other(tmp_path: Path) -> None:
    (first, alice), (second, robot) = new_key("alice", "admin"), new_key("robot", "predict")
    path = tmp_path / "keys"
    path.write_text(f"{alice.line}\n{robot.line}\n")
    keys = Keys(settings(admin_key="plain", keys_file=path))
    for sent, name in ((first, "alice"), (second, "robot"), ("plain", FROM_ENVIRONMENT)):
        found = keys.find(sent.encode())
        assert found is not None
        assert found.name == name
    for sent in ("", first[:-1], first + "x", alice.digest.hex(), alice.line):
        assert keys.find(sent.encode()) is None


def test_a_changed_file_is_read_again_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first, alice), (second, bob) = new_key("alice", "admin"), new_key("bob", "admin")
    path = tmp_path / "keys"
    path.write_text(f"{alice.line}\n")
    keys = Keys(settings(keys_file=path))
    path.write_text(f"{bob.line}\n\n")
    assert keys.find(first.encode()) is None
    assert keys.find(second.encode()) == bob
    path.write_text("nonsense")
    assert keys.find(second.encode()) == bob
    assert "line 1" in caplog.text
    path.unlink()
    assert keys.find(second.encode()) == bob
    path.write_text("")
    assert not keys.any_admin


def test_predictions_stay_guarded_when_an_editor_empties_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    keys = Keys(settings(keys_file=path))
    assert not keys.predictions_need_key
    path.write_text(new_key("robot", "predict")[1].line)
    assert keys.predictions_need_key
    path.write_text("")
    assert keys.predictions_need_key


def test_without_any_key_nothing_is_found() -> None:
    keys = Keys(settings())
    assert not keys.any_admin
    assert keys.find(b"") is None
    assert keys.find(b"None") is None
