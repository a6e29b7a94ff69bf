"""Labels that their neighbours doubt, decided on the page, in a browser, with a real server."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from tests.e2e.conftest import KEY, Server, until
from tests.e2e.page import give_key, violations
from tests.images_for_tests import make_image

ADMIN = {"Authorization": f"Bearer {KEY}"}
Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def server(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> Server:
    """A server of which six of its own entries and a taught one have wrong labels."""
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), admin_key=KEY)
    for label, wrong in (("red", "blue"), ("blue", "green"), ("green", "red")):
        for entry in httpx.get(f"{server.url}/v1/entries?label={label}&limit=2").json()["entries"]:
            path = f"{server.url}/v1/entries/{entry['id']}"
            httpx.patch(path, json={"label": wrong}, headers=ADMIN).raise_for_status()
    files = {"file": ("a.png", make_image("red", (40, 36), seed=77))}
    taught = httpx.post(f"{server.url}/v1/entries", files=files, data={"label": "blue"}, headers=ADMIN)
    taught.raise_for_status()
    return server


def suspects(server: Server) -> Any:
    return httpx.get(f"{server.url}/v1/admin/audit", headers=ADMIN).json()


def audited(server: Server, visit: Visit) -> Page:
    page = visit(server, "#audit")
    page.get_by_role("button", name="Enter the key").first.click()
    give_key(page)
    page.get_by_role("button", name="Look for wrong labels").click()
    expect(page.locator("#suspect-title")).to_be_visible()
    return page


def figure(page: Page, name: str) -> Any:
    return page.locator("#audit .figures div", has=page.get_by_text(name, exact=True)).locator("dd")


def test_suspects_are_decided_by_key_and_taken_back(server: Server, visit: Visit) -> None:
    page = audited(server, visit)
    told = suspects(server)
    assert told["open"] >= 4
    title = page.locator("#suspect-title")

    def shows(place: int) -> None:
        one = told["suspects"][place]
        expect(title).to_have_text(f"Labelled {one['entry']['label']} its neighbours say {one['suggested']}")

    shows(0)
    expect(page.get_by_role("list", name="Nearest known images").get_by_role("button")).to_have_count(8)
    assert violations(page) == []
    title.focus()
    page.keyboard.press("r")
    shows(1)
    expect(title).to_be_focused()
    page.keyboard.press("l")
    shows(2)
    expect(page.get_by_role("status").filter(has_text="Relabelled")).to_contain_text("Labelled ")
    expect(figure(page, "To be decided")).to_have_text(str(told["open"] - 2))
    page.keyboard.press("u")
    shows(1)
    page.keyboard.press("l")
    page.get_by_label("It is something else").fill("rl xu")  # typed, and no keys
    shows(2)
    page.keyboard.press("Enter")
    shows(3)
    expect(figure(page, "Relabelled")).to_have_text("2")
    until(lambda: suspects(server)["decided"] == {"right": 1, "relabelled": 2, "removed": 0})
    assert "rl xu" in httpx.get(f"{server.url}/v1/model").json()["classes"]
    # All of it is known after a reload.
    page.reload()
    page.get_by_role("button", name="Enter the key").first.click()
    give_key(page)
    shows(3)
    expect(figure(page, "Right as they are")).to_have_text("1")


def test_a_removal_is_taken_back_but_not_of_what_was_taught(server: Server, visit: Visit) -> None:
    page = audited(server, visit)
    total = suspects(server)["open"]
    for _ in range(total):
        one = suspects(server)["suspects"][0]
        expect(page.locator("#suspect-title strong")).to_have_text(one["entry"]["label"])
        page.locator("#suspect-title").focus()
        page.keyboard.press("x")
        path = f"{server.url}/v1/entries/{one['entry']['id']}"
        if one["entry"]["taught"]:
            page.get_by_role("button", name="Remove for good?").click()
            expect(figure(page, "Removed")).to_have_text("1")
            page.get_by_role("button", name="Undo").click()
            expect(page.locator("#audit-status")).to_contain_text("cannot be taken back")
            assert httpx.get(path).status_code == 404
            return
        expect(figure(page, "Removed")).to_have_text("1")
        page.get_by_role("button", name="Undo").click()
        expect(figure(page, "Removed")).to_have_text("0")
        page.locator("#suspect-title").focus()
        page.keyboard.press("r")
        expect(figure(page, "To be decided")).to_have_text(str(suspects(server)["open"]))
    raise AssertionError("the taught image was not among the suspects")


def test_what_cannot_be_kept_is_said_and_asked_again(server: Server, visit: Visit) -> None:
    page = audited(server, visit)
    one = suspects(server)["suspects"][0]
    # Somebody else has given it another label meanwhile.
    path = f"{server.url}/v1/entries/{one['entry']['id']}"
    httpx.patch(path, json={"label": "violet"}, headers=ADMIN).raise_for_status()
    page.get_by_role("button", name="Right as it is").click()
    expect(page.locator("#audit-status")).to_contain_text("Not kept")
    expect(page.locator("#audit-status")).to_contain_text("violet by now")
    expect(page.locator("#suspect-title strong")).to_have_text(one["entry"]["label"])


def test_on_a_phone_and_in_the_dark(server: Server, visit: Visit) -> None:
    page = audited(server, visit)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert violations(page) == []
