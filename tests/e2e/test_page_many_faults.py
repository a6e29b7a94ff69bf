"""Many images on the page, and what goes wrong: files, keys, the server, the network, the disk."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.service.http.keys import new_key
from tests.e2e.conftest import KEY, Server, fill
from tests.e2e.page import give_key, upload, violations
from tests.e2e.page_of_many import cell, choose, colour, counts, put, uploads

Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def server(serve: Serve, root: Path) -> Server:
    return serve(bundles=root, admin_key=KEY)


def test_what_failed_is_told_by_its_reason(server: Server, visit: Visit, tmp_path: Path) -> None:
    page = visit(server)
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "predict" in asked.url else None)
    film = {"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"\0" * 1000}
    page.set_input_files("#files", [film] * 9)
    failures = page.locator("#failures li")
    expect(failures).to_have_count(1)
    expect(failures).to_contain_text("9 images without an answer: this is no image, it is video/mp4.")
    # They were not sent, and cannot be in vain.
    assert sent == []
    expect(failures.get_by_role("button")).to_have_text(["Take off the page"])
    put(page, [*uploads(9), *(upload(f"broken{i}.png", b"no image") for i in range(3))])
    expect(failures).to_have_count(2)
    broken = failures.filter(has_text="broken0.png")
    expect(broken).to_contain_text("3 images without an answer: ")
    expect(broken).to_contain_text("broken0.png, broken1.png, broken2.png")
    expect(broken.get_by_role("button")).to_have_text(["Take off the page"])
    assert violations(page) == []
    broken.get_by_role("button", name="Take off the page").click()
    expect(failures).to_have_count(1)
    # A file that is gone from the disk is one failure, and the others are answered.
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_bytes(colour(i))
    page.evaluate(
        """() => {
            window.held = fetch;
            window.fetch = (...asked) => new Promise((go) => { window.go = go; }).then(() => held(...asked));
        }"""
    )
    page.set_input_files("#files", paths)
    page.wait_for_function("() => Boolean(window.go)")
    paths[5].unlink()
    page.evaluate("window.fetch = held; go();")
    expect(failures.filter(has_text="it cannot be read any more")).to_contain_text("5.png")
    expect(page.locator("#looking")).to_be_hidden()
    choose(page, "#show", "failed")
    expect(page.locator("#shown")).to_have_text("10 of 30 images")


def test_without_a_key_all_are_tried_again_together(serve: Serve, root: Path, tmp_path: Path, visit: Visit) -> None:
    secret, key = new_key("robot", "predict")
    (tmp_path / "keys.txt").write_text(f"{key.line}\n")
    page = visit(serve(bundles=root, keys_file=tmp_path / "keys.txt"))
    page.set_input_files("#files", uploads(100))
    page.get_by_role("dialog", name="A key is needed").get_by_role("button", name="Cancel").click()
    failures = page.locator("#failures li")
    expect(failures).to_contain_text("100 images without an answer: This call needs a key")
    expect(page.get_by_role("dialog")).to_have_count(0)
    failures.get_by_role("button", name="Retry all").click()
    give_key(page, secret)
    expect(failures).to_have_count(0)
    expect(page.locator("#looking")).to_be_hidden()


def test_it_goes_on_where_the_server_is_started_again(serve: Serve, root: Path, visit: Visit) -> None:
    server = serve(bundles=root, admin_key=KEY)
    page = visit(server)
    grid = put(page, uploads(20))
    server.stop()
    page.set_input_files("#files", uploads(40, first=20))
    expect(page.locator("#away-why")).to_contain_text("The server does not answer. Is it running?")
    expect(page.locator("#looking-count")).to_have_text("20 of 60 images looked at")
    assert violations(page) == []
    serve(port=int(server.url.rsplit(":", 1)[1]), bundles=root, admin_key=KEY)
    page.evaluate("document.getElementById('away-now').click()")  # which may be hidden again by now
    expect(page.locator("#looking")).to_be_hidden()
    expect(page.locator("#away")).to_be_hidden()
    expect(page.locator("#show option[value=failed]")).to_have_text("without an answer (0)")
    # The same for what is taught.
    grid.focus()
    page.keyboard.press("Home")
    page.keyboard.press("1")
    give_key(page)
    expect(page.locator(".mark", has_text="✓ blue")).to_have_count(1)


def test_what_is_taught_while_the_network_is_gone_is_taught_when_it_is_back(server: Server, visit: Visit) -> None:
    page = visit(server)
    grid = put(page, uploads(12))
    grid.focus()
    page.keyboard.press("Home")
    page.keyboard.press("1")
    give_key(page)
    expect(cell(page, "000.png").locator(".mark")).to_have_text("✓ blue")
    page.context.set_offline(True)
    for _ in range(4):
        page.keyboard.press("2")
    page.keyboard.press("u")
    expect(page.locator("#away")).to_be_visible()
    expect(page.locator("#teaching")).to_contain_text("on the way to be taught")
    page.context.set_offline(False)
    for name, mark in {"001.png": "✓ green", "003.png": "✓ green", "004.png": ""}.items():
        expect(cell(page, name).locator(".mark")).to_have_text(mark)
    expect(page.locator("#teaching")).to_have_text("")
    assert counts(server) == {"blue": 21, "green": 23, "red": 20}


def test_where_the_disk_is_full_it_is_said_and_tried_again(
    serve: Serve, tiny_bundle: Path, small_disk: Callable[[str], Path], visit: Visit
) -> None:
    disk = small_disk("size=24m")
    root = Path(shutil.copytree(tiny_bundle, disk / "bundles"))
    server = serve(bundles=root, admin_key=KEY)
    page = visit(server)
    grid = put(page, uploads(12))
    grid.focus()
    page.keyboard.press("Home")
    ballast = fill(disk)
    page.keyboard.press("1")
    give_key(page)
    failures = page.locator("#failures li")
    expect(failures).to_contain_text("1 image not taught: ")
    expect(cell(page, "000.png").locator(".mark")).to_have_text("not taught")
    assert violations(page) == []
    ballast.unlink()
    failures.get_by_role("button", name="Teach again").click()
    expect(cell(page, "000.png").locator(".mark")).to_have_text("✓ blue")
    expect(failures).to_have_count(0)
    assert counts(server)["blue"] == 21


def test_what_cannot_be_taught_says_why_at_a_key(serve: Serve, visit: Visit) -> None:
    page = visit(serve(host="0.0.0.0"))
    grid = put(page, uploads(9))
    expect(page.locator("#slots")).to_be_hidden()
    grid.focus()
    page.keyboard.press("1")
    expect(page.locator("#status")).to_contain_text(
        "This server cannot be taught. The default bundle cannot be changed"
    )
