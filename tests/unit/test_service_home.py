"""What address whoever started a server is shown."""

import html
import io
import sys
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from secondlook.service.processes.browser import Browser
from secondlook.service.processes.home import at_home, page
from tests.service_for_tests import KEY, settings

ADDRESS = "http://127.0.0.1:8000/"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("given", "shows_key", "stderr", "shown"),
    [
        ({"admin_key": "slk_a"}, True, io.StringIO(), f"{ADDRESS}#key=slk_a"),
        ({"admin_key": "slk_a", "log": "json"}, True, Terminal(), f"{ADDRESS}#key=slk_a"),
        ({"admin_key": "slk_a", "log": "json"}, True, io.StringIO(), ADDRESS),
        ({"admin_key": "slk_a"}, False, Terminal(), ADDRESS),
        ({}, True, Terminal(), ADDRESS),
    ],
)
def test_the_key_is_shown_to_whoever_started_it_alone(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], shows_key: bool, stderr: io.StringIO, shown: str
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert page(ADDRESS, settings(**given), shows_key=shows_key) == shown


def test_a_browser_is_told_a_file_that_its_user_alone_can_read_and_that_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    told: Queue[str] = Queue()
    monkeypatch.setattr("webbrowser.open", told.put)
    link = f"{ADDRESS}look/#key=slk_a&b"
    with Browser() as browser:
        for _ in range(2):
            browser.open(ADDRESS, link)
            path = Path(url2pathname(urlsplit(told.get(timeout=10)).path))
            assert path == tmp_path / "secondlook" / "open-8000.html"
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.read_text().count(html.escape(link)) == 2
        browser.open(ADDRESS, ADDRESS)
        assert told.get(timeout=10) == ADDRESS
    assert not list((tmp_path / "secondlook").iterdir())


def test_where_no_file_can_be_written_the_page_asks_for_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    told: Queue[str] = Queue()
    monkeypatch.setattr("webbrowser.open", told.put)
    with Browser() as browser:
        browser.open(ADDRESS, f"{ADDRESS}#key=slk_a")
        assert told.get(timeout=10) == ADDRESS


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "192.0.2.7"},
        {"bundles": "/bundles"},
        {"bundles": "/bundles", "admin_key": KEY},
        {"milvus": {"address": "http://127.0.0.1:19530"}},
    ],
)
def test_a_server_that_is_told_more_or_reached_by_others_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be made or read")

    for name in ("made_home", "local_key", "seed"):
        monkeypatch.setattr(f"secondlook.service.processes.home.{name}", refuse)
    told = settings(**given)
    assert at_home(told) == (told, False)
