"""From a start with nothing set to a taught class answered, in a browser, and what a page says that cannot teach."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.service.processes.browser import Browser
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.page import WRONG, look, says, striped, upload, violations
from tests.e2e.test_at_home import link

Serve = Callable[..., Server]
Visit = Callable[..., Page]


def test_the_file_that_a_browser_is_told_leads_to_the_page_with_the_key(
    serve: Serve, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    home, key = link(server)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "mine"))
    told: list[str] = []
    monkeypatch.setattr("webbrowser.open", told.append)
    with Browser() as opened:
        opened.open(home, f"{home}#key={key}")
        context = browser.new_context()
        page = context.new_page()
        until(lambda: told, 10)
        page.goto(told[0])
        page.wait_for_url(home)
        page.get_by_role("link", name="Admin").click()
        expect(page.get_by_label("Admin key")).not_to_be_visible()
        context.close()


def address(page: Page) -> str:
    """What stands in the address line."""
    return str(page.evaluate("location.href"))


@pytest.mark.parametrize("options", [{}, {"root_path": "/look"}], ids=["plain", "below a path"])
def test_by_the_link_a_class_is_taught_without_typing_a_key(
    serve: Serve, visit: Visit, figures: Callable[[str], None], options: dict[str, str]
) -> None:
    began = time.monotonic()
    server = serve(**options)
    home, key = link(server)
    ready = time.monotonic()
    page = visit(server, f"{home.removeprefix(f'{server.url}/')}#key={key}")
    calls: list[str] = []
    page.on("request", lambda asked: calls.append(f"{asked.url} {asked.headers.get('referer', '')}"))
    clicks = ["the link", "Choose images"]
    cards = look(page, *(upload(f"{i}.png", striped(i)) for i in range(3)), upload("new.png", striped(9)))
    for i, card in enumerate(cards[:3]):
        card.get_by_role("checkbox", name=f"Select {i}.png").check()
        clicks.append(f"{i}.png")
    page.get_by_role("button", name="Teach these").click()
    clicks.append("Teach these")
    page.get_by_label("It shows", exact=True).fill("striped")
    page.keyboard.press("Enter")
    says(cards[3], "striped")
    expect(page.get_by_role("dialog")).to_have_count(0)
    taught = time.monotonic()
    figures(
        f"from serve with nothing set to a taught class answered: {taught - began:.1f} s ({ready - began:.1f} s until "
        f"the server was ready), {len(clicks)} clicks ({', '.join(clicks)}), 1 word typed, 0 restarts"
    )
    # The key is nowhere but in the page's memory.
    assert address(page) == home
    kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, history.state])")
    assert key not in kept
    assert key not in "\n".join(calls)
    assert server.log.read_text().count(key) == 1
    page.get_by_role("link", name="Admin").click()
    expect(page.locator("#changes li")).to_have_count(3)
    page.go_back()
    assert "key" not in address(page)


def test_a_key_that_comes_later_is_taken_and_a_wrong_one_costs_nothing(serve: Serve, visit: Visit) -> None:
    server = serve(root_path="/look")
    home, key = link(server)
    page = visit(server, "look/#admin")
    expect(page.get_by_role("button", name="Enter the key")).to_be_visible()
    page.evaluate("location.hash = 'key=not%20the%20key'")
    expect(page.locator("#status")).to_have_text("The key in the address was not taken. The key is wrong.")
    assert address(page) == home
    page.evaluate("key => { location.hash = `key=${key}`; }", key)
    expect(page.locator("#status")).to_have_text("The key was taken from the address, and opens this server.")
    page.evaluate("location.hash = 'key=%'")
    expect(page.locator("#status")).to_have_text("The key in the address was not taken. The key is wrong.")
    assert address(page) == home
    page.get_by_role("link", name="Admin").click()
    expect(page.locator("#generations tr")).to_have_count(1)
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("button", name="Enter the key")).to_be_visible()


@pytest.mark.parametrize("own_key", [{}, {"admin_key": KEY}], ids=["without a key", "with a key"])
def test_what_cannot_be_taught_is_said_before_anyone_types(serve: Serve, visit: Visit, own_key: dict[str, str]) -> None:
    why = re.compile("^This server cannot be taught. The default bundle cannot be changed: set SECONDLOOK_BUNDLES")
    page = visit(serve(host="0.0.0.0", **own_key))
    expect(page.locator("#cannot-teach")).to_have_text(why)
    (card,) = look(page, upload("a.png", striped(1)))
    card.get_by_role("button", name=WRONG).click()
    dialog = page.get_by_role("dialog", name="What does a.png show?")
    expect(dialog.locator("[data-unteachable]")).to_have_text(why)
    expect(dialog.get_by_role("combobox")).to_have_count(0)
    expect(dialog.get_by_role("button")).to_have_text(["Cancel"])
    assert violations(page) == []
    page.keyboard.press("Escape")
    card.get_by_role("list", name="Nearest known images").get_by_role("button").first.click()
    entry = page.locator("#entry-dialog")
    expect(entry.locator("[data-unteachable]")).to_have_text(why)
    expect(entry.get_by_role("button")).to_have_text(["Close"])
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Admin").click()
    expect(page.locator("#admin > [data-unteachable]")).to_have_text(why)
    assert violations(page) == []


def test_nothing_is_said_where_it_can_be_taught(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    page = visit(serve())
    expect(page.locator("#model")).to_contain_text("known images of")
    for said in page.locator("[data-unteachable]").all():
        expect(said).to_be_hidden()
        expect(said).to_have_text("")
