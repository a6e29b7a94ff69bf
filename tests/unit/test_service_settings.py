from pathlib import Path

import pytest
from pydantic import ValidationError

from model.milvus import MilvusSettings
from service.settings import Settings, settings_table
from tests.service_for_tests import settings


def test_reads_prefixed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDLOOK_PORT", "9001")
    monkeypatch.setenv("SECONDLOOK_ADMIN_KEY", "abc")
    monkeypatch.setenv("PORT", "1")
    read = Settings()
    assert read.port == 9001
    assert read.admin_key is not None
    assert read.admin_key.get_secret_value() == "abc"
    assert "abc" not in repr(read)


def test_an_empty_admin_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDLOOK_ADMIN_KEY", "")
    assert Settings().admin_key is None
    with pytest.raises(ValidationError):
        Settings(admin_key="")


def test_is_frozen() -> None:
    with pytest.raises(ValidationError):
        settings().port = 1  # type: ignore[misc]


def test_folders_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(bundles="there").bundles == tmp_path.resolve() / "there"


def test_hides_its_folders() -> None:
    read = settings(bundles="/srv/bundles", data="/srv/data")
    assert read.hide_paths("/srv/data/x has no classes, see /srv/bundles") == (
        "SECONDLOOK_DATA/x has no classes, see SECONDLOOK_BUNDLES"
    )


def test_the_table_has_every_setting_with_its_default_and_meaning() -> None:
    rows = settings_table().splitlines()[2:]
    fields = [(name, field) for name, field in Settings.model_fields.items() if name != "milvus"]
    at = list(Settings.model_fields).index("milvus")
    fields[at:at] = [(f"milvus__{name}", field) for name, field in MilvusSettings.model_fields.items()]
    for (name, field), row in zip(fields, rows, strict=True):
        variable, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        assert variable == f"`SECONDLOOK_{name.upper()}`"
        is_unset = field.is_required() or str(field.default) in ("None", "")
        assert default == ("unset" if is_unset else f"`{field.default}`")
        assert len(meaning) > 10
