"""Below which path a request came in, and what links say of it."""

import asyncio
from typing import Any

import pytest

from secondlook.service.prefix import Prefix, link

HERE, ELSEWHERE = ("127.0.0.1", 5), ("203.0.113.9", 5)


def seen(path: str, *forwarded: str, root_path: str = "", client: Any = HERE) -> tuple[str, str]:
    """The path as the calls know it, and a link."""
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope["path"], link("/v1/model")))

    headers = [(b"x-forwarded-prefix", one.encode()) for one in forwarded]
    scope = {"type": "http", "path": path, "headers": headers, "client": client}
    asyncio.run(Prefix(app, root_path)(scope, None, None))  # type: ignore[arg-type]
    return found[0]


def test_without_a_prefix() -> None:
    assert seen("/v1/model") == ("/v1/model", "/v1/model")


@pytest.mark.parametrize("path", ["/v1/model", "/look/v1/model"])
def test_a_setting_counts_whether_the_proxy_takes_it_off_or_not(path: str) -> None:
    assert seen(path, root_path="/look") == ("/v1/model", "/look/v1/model")
    assert seen(path, "/other", root_path="/look") == ("/v1/model", "/look/v1/model")


def test_only_whole_parts_are_taken_off() -> None:
    assert seen("/looking/v1", root_path="/look")[0] == "/looking/v1"
    assert seen("/look/", root_path="/look")[0] == "/"
    assert seen("/look", root_path="/look")[0] == ""  # which is redirected


def test_a_proxy_here_is_believed() -> None:
    assert seen("/v1/model", "/look") == ("/v1/model", "/look/v1/model")
    assert seen("/v1/model", "/a/b-c/") == ("/v1/model", "/a/b-c/v1/model")


@pytest.mark.parametrize("client", [ELSEWHERE, None, ("unix", 0)])
def test_others_are_not(client: Any) -> None:
    assert seen("/v1/model", "/look", client=client) == ("/v1/model", "/v1/model")


@pytest.mark.parametrize(
    "sent",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "evil",
        "/a/../b",
        "/..",
        "/a//b",
        "/a?b",
        "/a#b",
        "/a%2f",
        "/<script>",
        '/a"b',
        "/a b",
        "/a, /b",
        "/" + "a" * 65,
        "/a" * 9,
        "/",
        "",
    ],
)
def test_what_is_no_plain_path_is_nothing(sent: str) -> None:
    assert seen("/v1/model", sent) == ("/v1/model", "/v1/model")
    assert seen("/v1/model", "/look", sent) == ("/v1/model", "/v1/model")
