"""Teaching and administering on the page, in a browser, with a real server."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.model.bundles.root import active_generation
from tests.e2e.conftest import KEY, Server, generation
from tests.e2e.page import WRONG, ask, give_key, look, percent, says, striped, upload
from tests.images_for_tests import make_folder, make_image

ADMIN = {"Authorization": f"Bearer {KEY}"}
Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def server(serve: Serve, root: Path, colour_folder: Path) -> Server:
    return serve(bundles=root, data=colour_folder.parent, admin_key=KEY)


def test_a_wrong_answer_is_taught_right_and_taken_back(server: Server, visit: Visit) -> None:
    page, image = visit(server), striped(1)
    (card,) = look(page, upload("a.png", image))
    before = ask(server, image)["predictions"][0]
    label = "lobster"
    card.get_by_role("button", name=WRONG).click()
    dialog = page.get_by_role("dialog", name="What does a.png show?")
    dialog.get_by_label("It shows", exact=True).fill(label)
    expect(dialog).to_contain_text("lobster becomes a class")
    dialog.get_by_role("button", name="Teach", exact=True).click()
    give_key(page, "not the key")
    expect(page.get_by_role("alert").filter(has_text="The key is wrong.")).to_be_visible()
    give_key(page)
    expect(dialog).not_to_be_visible()
    note = card.locator(".note.taught")
    expect(note).to_contain_text(f"{before['label']} {percent(before['probability'])}")
    now = ask(server, image)["predictions"][0]
    expect(note).to_contain_text(f"{now['label']} {percent(now['probability'])}")
    assert now["label"] == label
    says(card, label)
    expect(card.locator(".tiles li").first).to_have_class(re.compile(r"\btaught\b"))
    # A label that people would take for a known one is refused, and the known one offered.
    card.get_by_role("button", name=WRONG).click()
    dialog.get_by_label("It shows", exact=True).fill("Lobster")
    dialog.get_by_role("button", name="Teach", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("it differs from lobster only in how it is written")
    expect(dialog.get_by_label("It shows", exact=True)).to_have_value(label)
    dialog.get_by_role("button", name="Cancel").click()
    # The key is nowhere but in the page's memory.
    kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])")
    assert KEY not in kept
    card.get_by_role("button", name="Undo").click()
    says(card, before["label"])
    expect(card.locator(".verdict")).to_contain_text(percent(before["probability"]))


def test_five_images_make_a_class_that_the_sixth_is_of(server: Server, visit: Visit) -> None:
    page = visit(server)
    (sixth,) = look(page, upload("sixth.png", striped(6)))
    cards = look(page, *(upload(f"{i}.png", striped(i)) for i in range(5)))
    for i, card in enumerate(cards):
        card.get_by_role("checkbox", name=f"Select {i}.png").check()
    expect(page.locator("#selected")).to_have_text("5 selected")
    page.get_by_role("button", name="Teach these").click()
    page.get_by_label("It shows", exact=True).fill("striped")
    page.keyboard.press("Enter")
    give_key(page)
    says(sixth, "striped")
    expect(page.locator("#selection")).to_be_hidden()
    expect(page.locator(".note.taught")).to_have_count(5)
    for card in cards:
        expect(card.locator(".note.same")).to_contain_text("The same picture as entry ")
        expect(card.locator(".standing")).to_have_text("Known")
    model = httpx.get(f"{server.url}/v1/model").json()
    assert (model["classes"][-1], model["counts"][-1]) == ("striped", 5)


def test_a_neighbour_is_relabelled_and_removed(server: Server, visit: Visit) -> None:
    page, image = visit(server), make_image("red", seed=5)
    (card,) = look(page, upload("a.png", image))
    nearest, second = ask(server, image)["predictions"][0]["neighbors"][:2]
    tiles = card.get_by_role("list", name="Nearest known images").get_by_role("button")
    tiles.first.click()
    dialog = page.get_by_role("dialog", name=nearest["label"])
    expect(dialog).to_contain_text(nearest["source"])
    dialog.get_by_label("Not that? It shows").fill("blue")
    dialog.get_by_role("button", name="Relabel").click()
    give_key(page)
    expect(tiles.first).to_have_attribute("aria-label", re.compile("^blue, "))
    # The window that was open is closed over tiles that are new.
    expect(card.get_by_role("heading", level=3)).to_be_focused()
    entry = httpx.get(f"{server.url}/v1/entries/{nearest['id']}").json()
    assert (entry["label"], entry["was"]) == ("blue", nearest["label"])
    tiles.first.click()
    page.get_by_role("button", name="Remove it").click()
    page.get_by_role("button", name="Remove for good?").click()
    expect(tiles.first).to_have_attribute("aria-label", re.compile(f"^{second['label']}, "))
    assert httpx.get(f"{server.url}/v1/entries/{nearest['id']}").status_code == 404


def test_a_rebuild_is_watched_and_rolled_back(serve: Serve, root: Path, tmp_path: Path, visit: Visit) -> None:
    make_folder(tmp_path / "data" / "many", per_class=400)  # some seconds of it
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY)
    page, first = visit(server, "#admin"), active_generation(root)
    page.get_by_role("button", name="Enter the key").click()
    give_key(page)
    expect(page.locator("#generations tr")).to_have_count(1)
    page.get_by_role("textbox", name="Dataset").fill("many")
    page.get_by_role("button", name="Rebuild", exact=True).click()
    progress = page.get_by_role("progressbar")
    expect(progress).to_be_visible()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"\d+ of \d+"))
    expect(page.locator("#job-status")).to_have_text("The rebuild succeeded.", timeout=60_000)
    expect(progress).to_be_hidden()
    expect(page.locator("#generations tr")).to_have_count(2)
    second = generation(server.url)
    assert second != first
    expect(page.locator("#answering")).to_have_text(second)
    page.locator("#jobs summary").first.click()
    expect(page.locator("#jobs pre").first).to_contain_text("embed")
    page.get_by_role("button", name=f"Activate {first}").click()
    expect(page.locator("#admin-status")).to_have_text(f"{first} answers now.")
    expect(page.locator("#answering")).to_have_text(first)
    assert generation(server.url) == first
    page.get_by_role("button", name="Rebuild", exact=True).click()
    page.get_by_role("button", name="Cancel the rebuild").click()
    expect(page.locator("#job-status")).to_have_text("The rebuild cancelled.")


def test_entries_and_changes_are_listed(server: Server, visit: Visit) -> None:
    for seed in (1, 2):
        files = {"file": ("a.png", striped(seed))}
        httpx.post(f"{server.url}/v1/entries", files=files, data={"label": "striped"}, headers=ADMIN)
    page = visit(server, "#admin")
    page.get_by_role("button", name="Enter the key").click()
    give_key(page)
    entries = page.locator("#entries li")
    expect(entries).to_have_count(24)
    total = httpx.get(f"{server.url}/v1/model").json()["entries"]
    expect(page.locator("#entries-count")).to_have_text(f"1 to 24 of {total}")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#entries-count")).to_have_text(f"25 to 48 of {total}")
    page.get_by_role("button", name="Back").click()
    expect(page.locator("#entries-count")).to_have_text(f"1 to 24 of {total}")
    page.locator("#entries-taught").select_option("teaching")
    expect(entries).to_have_count(2)
    page.locator("#entries-label").select_option("striped")
    expect(entries).to_have_count(2)
    expect(page.locator("#changes li").first).to_contain_text("Image 2 taught as striped")
    entries.first.get_by_role("button").click()
    page.get_by_role("button", name="Remove it").click()
    page.get_by_role("button", name="Remove for good?").click()
    expect(entries).to_have_count(1)
    expect(page.locator("#changes li").first).to_contain_text("Image 1 removed, it was striped")
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("heading", name="This needs the admin key")).to_be_visible()
    expect(page.locator("#entries")).to_be_hidden()


def test_what_cannot_be_changed_is_said_in_words(serve: Serve, visit: Visit) -> None:
    page = visit(serve(admin_key=KEY, host="0.0.0.0"), "#admin")
    page.get_by_role("button", name="Enter the key").click()
    give_key(page)
    page.get_by_role("button", name="Rebuild", exact=True).click()
    expect(page.locator("#job-status")).to_contain_text("default bundle cannot be changed")
