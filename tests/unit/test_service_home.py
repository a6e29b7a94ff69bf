"""What address whoever started a server is shown."""

import io
import sys
from typing import Any

import pytest

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
