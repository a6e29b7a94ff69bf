"""The page of a server that knows nothing yet: it says so, asks for a first class, and goes on from there."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Locator, Page, expect

from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.root import activate
from tests.e2e.conftest import KEY, Server
from tests.e2e.page import give_key, look, says, upload, violations
from tests.images_for_tests import make_image
from tests.networks_for_tests import colour_backbone, written

Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    root, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(root, index(nothing(), root, FromNetwork(str(network)), IndexOptions()))
    return serve(bundles=root, admin_key=KEY)


def show(page: Page, colour: str, *seeds: int) -> list[Locator]:
    """The cards of pictures that are put on the page."""
    return look(page, *(upload(f"{colour}{seed}.png", make_image(colour, seed=seed)) for seed in seeds))


def test_the_first_classes_are_taught_by_choosing_photos_and_typing_words(server: Server, visit: Visit) -> None:
    page = visit(server)
    expect(page.get_by_role("heading", level=2, name="It knows nothing yet")).to_be_visible()
    expect(page.get_by_text("Teach it a first class: choose photos of one thing")).to_be_visible()
    expect(page.get_by_text("Each gets two opinions")).to_be_hidden()
    assert violations(page) == []
    reds = show(page, "red", 1, 2, 3)
    dialog = page.get_by_role("dialog", name="What do these 3 images show?")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("group", name="Known labels that come near").get_by_role("button")).to_have_count(0)
    assert violations(page) == []
    page.get_by_label("It shows", exact=True).fill("red")
    page.keyboard.press("Enter")
    give_key(page)
    for card in reds:
        says(card, "red")
        expect(card.locator(".note.taught")).to_have_text("Taught: red 100 % Undo")
    expect(page.locator("#model")).to_contain_text("3 known images of 1 class: red. Teach a second class")
    (blue,) = show(page, "blue", 1)
    says(blue, "red")
    blue.get_by_role("button", name="say what blue1.png shows").click()
    page.get_by_label("It shows", exact=True).fill("blue")
    page.keyboard.press("Enter")
    says(blue, "blue")
    for card in reds:
        says(card, "red")
    expect(page.locator("#model")).not_to_contain_text("Teach a second class")
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_role("textbox", name="Dataset")).to_have_attribute("placeholder", "what was taught")
    page.get_by_role("button", name="Rebuild").click()
    expect(page.locator("#job-status")).to_have_text("The rebuild succeeded.", timeout=120_000)
    expect(page.locator("#generations tr")).to_have_count(2)


def test_who_says_nothing_at_first_may_say_it_later_and_take_it_back(server: Server, visit: Visit) -> None:
    page = visit(server, viewport={"width": 390, "height": 844})
    (red,) = show(page, "red", 1)
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(red.get_by_role("heading", level=3)).to_have_text("Not known yet")
    (blue,) = show(page, "blue", 1)
    page.keyboard.press("Escape")
    assert violations(page) == []
    red.get_by_role("checkbox", name="Select red1.png").check()
    page.get_by_role("button", name="Teach these").click()
    page.get_by_label("It shows", exact=True).fill("red")
    page.keyboard.press("Enter")
    give_key(page)
    says(red, "red")
    says(blue, "red")
    red.get_by_role("button", name="Undo").click()
    for card in (red, blue):
        expect(card.get_by_role("heading", level=3)).to_have_text("Not known yet")
    expect(page.locator("#model")).to_contain_text("Nothing is known yet. backbone.onnx looks at 32")
    blue.get_by_role("button", name="Say what blue1.png shows").click()
    page.get_by_label("It shows", exact=True).fill("blue")
    page.keyboard.press("Enter")
    for card in (red, blue):
        says(card, "blue")
