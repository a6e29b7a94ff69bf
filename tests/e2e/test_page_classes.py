"""From a folder of photos to classes that are known, and to the report of how well each is told, in a browser."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.root import activate
from tests.e2e.conftest import KEY, Server
from tests.e2e.page import give_key, upload, violations
from tests.images_for_tests import COLOURS, make_image
from tests.networks_for_tests import colour_backbone, written

Serve = Callable[..., Server]
Visit = Callable[..., Page]

EACH = 8


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    root, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(root, index(nothing(), root, FromNetwork(str(network)), IndexOptions()))
    return serve(bundles=root, admin_key=KEY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos in folders of their classes, and what lies beside photos."""
    for colour in COLOURS:
        (of := tmp_path / "photos" / colour).mkdir(parents=True)
        for seed in range(EACH):
            (of / f"{seed}.png").write_bytes(make_image(colour, seed=seed))
        (of / ".DS_Store").write_bytes(b"x")
    (tmp_path / "photos" / "red" / "notes.txt").write_text("no image")
    whole = make_image("red", seed=99)
    (tmp_path / "photos" / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "photos"


def test_a_folder_becomes_classes_and_a_report_says_how_well_each_is_told(
    server: Server, visit: Visit, folder: Path, figures: Callable[[str], None]
) -> None:
    page = visit(server, "#classes")
    began = time.monotonic()
    expect(page.get_by_role("heading", level=2, name="Classes from photos")).to_be_visible()
    assert violations(page) == []
    page.set_input_files("#folder", folder)
    rows = page.locator(".class-row")
    expect(rows).to_have_count(len(COLOURS))
    assert sorted(rows.nth(i).get_by_label("Name of the class").input_value() for i in range(3)) == sorted(COLOURS)
    status = page.locator("#classes-status")
    expect(status).to_contain_text(f"{3 * EACH + 1} photos of 3 classes taken.")
    expect(status).to_contain_text("3 files left out, hidden or system: ")
    expect(status).to_contain_text("1 file left out, no image: photos/red/notes.txt.")
    assert violations(page) == []
    page.get_by_role("button", name=f"Teach {3 * EACH + 1} photos of 3 classes").click()
    give_key(page)
    report = page.locator("#report")
    expect(report.locator(".outcome")).to_contain_text(f"right: {3 * EACH} of {3 * EACH}", timeout=120_000)
    figures(
        f"from a folder dropped in the page to its report: {time.monotonic() - began:.1f} s for {3 * EACH} photos of 3 "
        "classes with a network of nothing (choose the folder, Teach: 2 clicks, and the key)"
    )
    # What could not be taught is still there, with the reason.
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("1 photo was not taught: cut.png: ")
    for colour in COLOURS:
        row = report.locator("tr", has=page.get_by_role("rowheader", name=colour, exact=True)).first
        expect(row).to_contain_text(f"{EACH} of {EACH}")
        expect(row).to_contain_text("100 % (68 % to 100 %)")  # Wilson (1927), 8 of 8
    expect(report.get_by_role("group", name="What was taken for what")).to_be_visible()
    expect(page.locator("#classes-known")).to_have_text(f"Known so far: {3 * EACH} images of 3 classes.")
    assert violations(page) == []


@pytest.mark.slow
def test_classes_are_named_by_hand_and_photos_come_by_dropping_or_by_the_camera(server: Server, visit: Visit) -> None:
    page = visit(server, "#classes", permissions=["camera"])
    rows = page.locator(".class-row")
    expect(rows).to_have_count(2)
    first, second = rows.nth(0), rows.nth(1)
    first.get_by_label("Photos of the class").set_input_files([upload("1.png", make_image("red", seed=1))])
    teach = page.locator("#teach-classes")
    expect(teach).to_be_disabled()
    expect(page.get_by_text("Give each class with photos a name first.")).to_be_visible()
    first.get_by_label("Name of the class").fill("  red   things ")
    expect(teach).to_have_text("Teach 1 photo of 1 class")
    second.get_by_label("Name of the class").fill("test picture")
    second.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Photos of test picture")
    expect(dialog.get_by_role("button", name="Hold to take photos")).to_be_enabled()
    assert violations(page) == []
    page.keyboard.down("Space")
    expect(dialog.locator("#burst-said")).to_have_text(re.compile(r"\d+ photos taken"))
    page.keyboard.up("Space")
    page.keyboard.press("Escape")
    expect(second).to_contain_text(re.compile(r"\d+ photos"))
    # A file dropped onto a class goes there, anywhere else by its folder.
    second.evaluate(
        """(row) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array([137, 80, 78, 71])], "dropped.png", { type: "image/png" }));
            row.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(second.get_by_role("img", name="dropped.png")).to_have_count(1)
    expect(page.locator("#cards li, #grid [role=gridcell]")).to_have_count(0)
    page.get_by_label("Then rebuild").uncheck()
    teach.click()
    give_key(page)
    expect(page.locator("#classes-status")).to_contain_text("taught, and known at once.")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("1 photo was not taught: dropped.png: ")
    page.get_by_role("link", name="Look").click()
    expect(page.locator("#model")).to_contain_text("2 classes: red things")


@pytest.mark.slow
def test_who_has_no_camera_is_told(server: Server, visit: Visit) -> None:
    page = visit(server, "#classes")
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error()); }")
    page.get_by_role("button", name="Use the camera").first.click()
    expect(page.get_by_text("There is no camera, or this page may not use it: choose photos instead.")).to_be_visible()
    expect(page.get_by_role("button", name="Hold to take photos")).to_be_disabled()


def test_a_server_that_cannot_be_taught_says_so_first(serve: Serve, visit: Visit, tiny_bundle: Path) -> None:
    page = visit(serve(bundles=tiny_bundle), "#classes")
    expect(page.locator("#classes").get_by_text("This server cannot be taught.")).to_be_visible()
    expect(page.locator("#teach-classes")).to_be_hidden()
    expect(page.locator("#report")).to_be_visible()
