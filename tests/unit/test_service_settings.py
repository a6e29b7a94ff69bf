from pathlib import Path

import pytest
from pydantic import ValidationError

from secondlook.model.errors import ParameterError
from secondlook.model.images import Geometry, Limits, read_header
from secondlook.model.images.fitting import spare
from secondlook.model.stores.milvus_server import MilvusSettings
from secondlook.service.app import DECODERS
from secondlook.service.decoding.jobs import QUICK_BYTES
from secondlook.service.processes.workers import share
from secondlook.service.settings import Settings, read_settings, settings_table, unknown_variables
from tests.odd_images import HEIC_LARGE
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


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PORT", "abc", "SECONDLOOK_PORT: .*integer"),
        ("PORT", "tcp://10.0.0.1:8000", "SECONDLOOK_PORT: .*enableServiceLinks"),
        ("DEVICE", "tpu", "SECONDLOOK_DEVICE: .*cuda"),
        ("REPLICA", "1", "SECONDLOOK_REPLICA: .*SECONDLOOK_MILVUS__ADDRESS"),
        ("MILVUS__ADDRES", "http://m", "SECONDLOOK_MILVUS__ADDRES"),
        ("MILVUS", "{", "SECONDLOOK_MILVUS: .*JSON"),
        ("ALLOWED_HOSTS", "http://example.org", "SECONDLOOK_ALLOWED_HOSTS: http://example.org is no host"),
        ("ALLOWED_HOSTS", "example.org:8000", "SECONDLOOK_ALLOWED_HOSTS: .*without a port"),
        ("ALLOWED_HOSTS", "*.*", "SECONDLOOK_ALLOWED_HOSTS: "),
        ("ROOT_PATH", "//evil.example", "SECONDLOOK_ROOT_PATH: give a path"),
        ("ROOT_PATH", "look", "SECONDLOOK_ROOT_PATH: give a path"),
        ("ROOT_PATH", "/a/../b", "SECONDLOOK_ROOT_PATH: give a path"),
        ("ADMIN_KEY_", "", ""),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"SECONDLOOK_{variable}", value)
    if not sentence:
        read_settings()
        return
    with pytest.raises(ParameterError, match=f"^{sentence}") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_setting_names_the_likely_one() -> None:
    given = dict.fromkeys(
        ("SECONDLOOK_PROT", "secondlook_bundels", "SECONDLOOK_MILVUS__ADRESS", "SECONDLOOK_WHATEVER_ELSE"), "x"
    )
    fine = dict.fromkeys(
        (
            "SECONDLOOK_PORT",
            "secondlook_port",
            "SECONDLOOK_KEY",
            "SECONDLOOK_AUTHOR_WEIGHTS",
            "SECONDLOOK_PHOTOS",
            "SECOND",
        ),
        "x",
    )
    fine["SECONDLOOK_MILVUS"] = "x"
    assert unknown_variables(given | fine) == [
        "SECONDLOOK_MILVUS__ADRESS is no setting: SECONDLOOK_MILVUS__ADDRESS is the likely one",
        "SECONDLOOK_PROT is no setting: SECONDLOOK_PORT is the likely one",
        "SECONDLOOK_WHATEVER_ELSE is no setting: docs/settings.md lists them",
        "secondlook_bundels is no setting: SECONDLOOK_BUNDLES is the likely one",
    ]


@pytest.mark.parametrize("name", ["HEADER_TIMEOUT_S", "BODY_STALL_S", "GATE_MARGIN", "SUGGEST_REBUILD"])
def test_a_setting_that_is_gone_is_warned_about(name: str) -> None:
    (sentence,) = unknown_variables({f"SECONDLOOK_{name}": "1"})
    assert sentence.startswith(f"SECONDLOOK_{name} is no setting: ")


def test_hosts_are_read_as_requests_spell_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDLOOK_ALLOWED_HOSTS", "Photos.Example.org., *.example.net ,[2001:DB8::1],münchen.example")
    read = Settings()
    assert read.allowed_hosts == ("photos.example.org", "*.example.net", "2001:db8::1", "xn--mnchen-3ya.example")
    assert Settings(**read.model_dump(mode="json")) == read  # as workers get it


@pytest.mark.parametrize("workers", [1, 2, 4, 32])
def test_each_of_several_workers_has_memory_for_an_image_as_large_as_is_accepted(workers: int) -> None:
    told = settings(workers=workers)
    webp = b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + 2 * (7999).to_bytes(3, "little")
    limits = Limits(told.max_pixels)
    heic = read_header(HEIC_LARGE, limits)
    pixels, usual = heic.width * heic.height, Geometry.covering(560, 560)
    beside = [spare(round(of**0.5), round(of**0.5), usual) for of in (pixels, told.max_pixels)]
    as_large = (heic.peak_bytes - beside[0]) / pixels * told.max_pixels + beside[1]
    needed = max(read_header(webp, limits).peak_bytes, as_large) + 2 * told.max_file_bytes
    assert share(told, 0).decode_bytes - DECODERS // workers * QUICK_BYTES >= needed
