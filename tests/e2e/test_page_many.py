"""Many images on the page: a grid, in a browser, from a real server."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from tests.e2e.conftest import KEY, Server
from tests.e2e.page import Upload, ask, give_key, headline, upload, violations
from tests.e2e.page_of_many import cell, choose, counts, put, shown, uploads
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def server(serve: Serve, root: Path) -> Server:
    return serve(bundles=root, admin_key=KEY)


def answers(server: Server, files: list[Upload]) -> dict[str, Any]:
    return {file["name"]: ask(server, file["buffer"])["predictions"][0] for file in files}


def test_more_than_a_few_are_a_grid_and_a_few_are_cards_again(server: Server, visit: Visit) -> None:
    page, files = visit(server), uploads(9)
    grid = put(page, files)
    expect(page.locator("#cards")).to_be_hidden()
    expect(page.locator("#mixer")).to_be_hidden()
    expect(grid.get_by_role("gridcell")).to_have_count(9)
    for name, said in answers(server, files).items():
        expect(cell(page, name).locator("strong")).to_have_text(headline(said))
        expect(cell(page, name)).to_have_attribute("data-standing", said["standing"])
    expect(grid.locator("img:visible")).to_have_count(9)
    assert violations(page) == []
    # Of one that is taken off, eight are left: as cards, with all that is said of them.
    cell(page, "004.png").click()
    page.get_by_role("button", name="Take off the page").click()
    expect(page.locator(".card")).to_have_count(8)
    expect(grid).to_be_hidden()
    for card in page.locator(".card").all():
        expect(card.get_by_role("list", name="Nearest known images").get_by_role("listitem")).to_have_count(6)


def test_only_what_is_in_sight_is_drawn(server: Server, visit: Visit) -> None:
    page = visit(server)
    grid = put(page, uploads(400))
    expect(grid).to_have_attribute("aria-rowcount", str(-(-400 // int(str(grid.get_attribute("aria-colcount"))))))
    assert page.locator(".cell").count() < 120
    assert shown(page)[0] == "000.png"
    grid.focus()
    page.keyboard.press("End")
    expect(cell(page, "399.png")).to_be_visible()
    expect(grid).to_have_attribute("aria-activedescendant", str(cell(page, "399.png").get_attribute("id")))
    assert page.locator(".cell").count() < 120
    expect(cell(page, "399.png").locator("img")).to_be_visible()
    grid.evaluate("grid => { grid.scrollTop = 0; }")
    expect(cell(page, "000.png").locator("img")).to_be_visible()


def test_they_are_chosen_and_sorted(server: Server, visit: Visit) -> None:
    page, files = visit(server), uploads(60)
    put(page, files)
    said = answers(server, files)
    for value in ("known", "doubtful", "unknown"):
        choose(page, "#show", value)
        wanted = [name for name, one in said.items() if one["standing"] == value]
        assert wanted, value
        expect(page.locator("#shown")).to_have_text(f"{len(wanted)} of 60 images")
        assert shown(page) == wanted[: len(shown(page))]
    differ = [name for name, one in said.items() if one["network"]["label"] != one["cache"]["label"]]
    choose(page, "#show", "differ")
    assert shown(page) == differ[: len(shown(page))]
    assert differ
    choose(page, "#show", "all")
    choose(page, "#show-class", "red")
    red = [name for name, one in said.items() if one["label"] == "red"]
    assert shown(page) == red[: len(shown(page))]
    choose(page, "#order", "unsure")
    red.sort(key=lambda name: said[name]["probability"])
    assert shown(page) == red[: len(shown(page))]
    choose(page, "#show-class", "")
    choose(page, "#order", "novel")
    novel = sorted(said, key=lambda name: -said[name]["novelty"]["score"])
    assert shown(page) == novel[: len(shown(page))]
    choose(page, "#order", "label")
    labels = [said[name]["label"] for name in shown(page)]
    assert labels == sorted(labels)
    # What nothing is like says so, and leads back.
    choose(page, "#show", "unknown")
    choose(page, "#show-class", "red")
    if not any(one["standing"] == "unknown" and one["label"] == "red" for one in said.values()):
        page.get_by_role("button", name="Show all of them").click()
        expect(page.locator("#shown")).to_have_text("60 images")


def test_where_doubt_is_not_calibrated_the_grid_says_so(serve: Serve, root: Path, visit: Visit) -> None:
    manifest = next(root.glob("*/manifest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"calibration": None}))
    page = visit(serve(bundles=root))
    put(page, uploads(9))
    expect(page.locator("#uncalibrated")).to_be_visible()
    expect(page.locator("#show option[value=unknown]")).to_have_text("unknown (0)")
    expect(page.locator("#show option[value=unknown]")).to_be_disabled()
    expect(page.locator(".cell strong").filter(has_text="I don")).to_have_count(0)


def test_labels_are_given_by_number_and_undone(server: Server, visit: Visit) -> None:
    page = visit(server)
    grid = put(page, uploads(12))
    expect(page.locator("#slots li")).to_have_text(["1 blue", "2 green", "3 red"])
    grid.focus()
    page.keyboard.press("Home")
    page.keyboard.press("3")
    give_key(page)
    expect(cell(page, "000.png").locator(".mark")).to_have_text("✓ red")
    # The keyboard went on to the next one, and does so without waiting.
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("2")
    for name, label in {"001.png": "blue", "002.png": "green", "003.png": "green"}.items():
        expect(cell(page, name).locator(".mark")).to_have_text(f"✓ {label}")
    assert counts(server) == {"blue": 21, "green": 22, "red": 21}
    expect(page.locator("#stale-why")).to_have_text("4 images were taught or taken back since these answers.")
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(cell(page, "003.png").locator(".mark")).to_have_text("")
    expect(cell(page, "002.png").locator(".mark")).to_have_text("")
    expect(page.locator("#status")).to_have_text("Undone: 1 image.")
    expect(page.locator("#teaching")).to_have_text("")
    assert counts(server) == {"blue": 21, "green": 20, "red": 21}
    # Another label in place of one that was given.
    page.keyboard.press("Home")
    page.keyboard.press("1")
    expect(cell(page, "000.png").locator(".mark")).to_have_text("✓ blue")
    assert counts(server) == {"blue": 22, "green": 20, "red": 20}
    page.keyboard.press("u")
    expect(cell(page, "000.png").locator(".mark")).to_have_text("✓ red")
    assert counts(server) == {"blue": 21, "green": 20, "red": 21}
    page.get_by_role("button", name="Look at all again").click()
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("12 images answered")


def test_the_selected_are_taught_together(server: Server, visit: Visit) -> None:
    page = visit(server)
    grid = put(page, uploads(40))
    cell(page, "001.png").click()
    cell(page, "004.png").click(modifiers=["Shift"])
    expect(page.locator("#selected")).to_have_text("4 selected")
    cell(page, "002.png").click()
    expect(page.locator("#selected")).to_have_text("3 selected")
    for name, is_selected in {"001.png": "true", "002.png": "false", "003.png": "true", "000.png": "false"}.items():
        expect(cell(page, name)).to_have_attribute("aria-selected", is_selected)
    page.keyboard.press("Escape")
    expect(page.locator("#selection")).to_be_hidden()
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#selected")).to_have_text("2 selected")
    choose(page, "#show-class", "red")
    page.get_by_role("button", name="Select all", exact=True).click()
    page.get_by_role("button", name="Teach these").click()
    # Two spaces are one, on the page and on the server.
    page.get_by_label("It shows", exact=True).fill("  fire   engine ")
    expect(page.locator("#teach-hint")).to_have_text(re.compile("^New: fire engine becomes"))
    page.keyboard.press("Enter")
    give_key(page)
    expect(page.get_by_role("dialog")).to_have_count(0)
    marked = page.locator("#grid .cell:visible .mark")
    expect(marked.filter(has_text="✓ fire engine")).to_have_count(grid.locator(".cell:visible:not(.blank)").count())
    choose(page, "#show-class", "")
    choose(page, "#show", "labelled")
    taught = len(shown(page))
    assert counts(server)["fire engine"] == taught > 5
    expect(page.locator("#slots li")).to_have_text(["1 blue", "2 green", "3 red", "4 fire engine"])


def test_one_opens_with_all_that_is_said_of_it(server: Server, visit: Visit) -> None:
    page = visit(server)
    grid = put(page, uploads(12))
    grid.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Image 1 of 12")).to_be_visible()
    dialog = page.locator("#detail-dialog")
    expect(dialog.locator(".file")).to_have_text("000.png")
    expect(dialog.get_by_role("list", name="Nearest known images").get_by_role("listitem")).to_have_count(6)
    assert violations(page) == []
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".file")).to_have_text("001.png")
    expect(dialog.get_by_role("list", name="Nearest known images").get_by_role("listitem")).to_have_count(6)
    dialog.get_by_role("button", name="That").click()
    page.get_by_label("It shows", exact=True).fill("striped")
    page.keyboard.press("Enter")
    give_key(page)
    expect(dialog.locator(".note.taught")).to_be_visible()
    dialog.get_by_role("button", name="Undo teaching").click()
    expect(dialog.locator(".note.taught")).to_have_count(0)
    page.keyboard.press("2")
    expect(dialog.locator(".file")).to_have_text("002.png")
    dialog.get_by_role("button", name="Close").click()
    expect(grid).to_be_focused()
    expect(cell(page, "002.png")).to_have_class(re.compile("active"))
    expect(cell(page, "001.png").locator(".mark")).to_have_text("✓ green")


def test_a_folder_is_dropped_with_all_that_is_in_it(server: Server, visit: Visit, tmp_path: Path) -> None:
    for name in ("red/a.png", "red/deep/b.png", "blue/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(make_image(name.split("/")[0]))
    (tmp_path / "alone.png").write_bytes(make_image("green"))
    page = visit(server)
    # As the browser itself takes them from a desktop.
    devtools = page.context.new_cdp_session(page)
    files = [str(tmp_path / "photos"), str(tmp_path / "alone.png")]
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": files, "dragOperationsMask": 1}
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    expect(page.locator(".card .file")).to_have_text(
        ["photos/blue/a.png", "photos/red/a.png", "photos/red/deep/b.png", "alone.png"]
    )


def test_answers_are_saved_as_csv_and_json(server: Server, visit: Visit) -> None:
    page, files = visit(server), uploads(12)
    odd = 'a "quoted", name.png'
    files[3]["name"] = odd
    put(page, [*files, upload("broken.png", b"no image")])
    said = answers(server, files)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    assert saved.value.suggested_filename == "answers.csv"
    rows = {
        row["file"]: row for row in csv.DictReader(io.StringIO(Path(saved.value.path()).read_text("utf-8"), newline=""))
    }
    assert list(rows) == [*said, "broken.png"]
    for name, one in said.items():
        row = rows[name]
        assert (row["label"], row["standing"], row["network"], row["cache"]) == (
            one["label"], one["standing"], one["network"]["label"], one["cache"]["label"]
        )  # fmt: skip
        assert float(row["probability"]) == pytest.approx(one["probability"], abs=1e-5)
        assert float(row["novelty"]) == pytest.approx(one["novelty"]["score"], abs=1e-4)
    assert rows["broken.png"]["label"] == ""
    assert rows["broken.png"]["problem"].startswith("broken.png: ")
    choose(page, "#show-class", "blue")
    with page.expect_download() as saved:
        page.get_by_role("button", name="as JSON").click()
    told = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert [one["file"] for one in told] == [name for name, one in said.items() if one["label"] == "blue"]
    assert {one["label"] for one in told} == {"blue"}


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_grid_fits_a_phone_and_a_desk(server: Server, visit: Visit, width: int, scheme: str) -> None:
    page = visit(server, viewport={"width": width, "height": 740}, has_touch=width < 500, color_scheme=scheme)
    put(page, [*uploads(30), upload("a-very-long-name-" + 20 * "of-a-file-" + ".png", make_image("red"))])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cell(page, "000.png").click()
    expect(page.locator("#selected")).to_have_text("1 selected")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    cell(page, "001.png").locator(".open").click()
    dialog = page.locator("#detail-dialog")
    expect(dialog.get_by_role("list", name="Nearest known images")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
