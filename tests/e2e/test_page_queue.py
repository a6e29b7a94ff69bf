"""What to label next, on the page: one image after the other in the server's order, a key a label."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.root import activate
from tests.e2e.conftest import KEY, Server
from tests.e2e.page import Upload, give_key, upload, violations
from tests.e2e.page_of_many import counts
from tests.images_for_tests import as_file
from tests.networks_for_tests import colour_backbone, written

Serve = Callable[..., Server]
Visit = Callable[..., Page]
CHANNELS = ("red", "green", "blue")


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    """One that knows nothing."""
    root, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(root, index(nothing(), root, FromNetwork(str(network)), IndexOptions()))
    return serve(bundles=root, admin_key=KEY)


def pictures(count: int) -> dict[str, tuple[str, bytes]]:
    """Of any colour, by their names: what is most of it, and the file."""
    found = {}
    for number in range(count):
        random = np.random.default_rng(number)
        colour = random.uniform(0, 255, 3)
        pixels = np.clip(colour + random.normal(0, 3, (32, 32, 3)), 0, 255).astype(np.uint8)
        found[f"{number:03d}.png"] = CHANNELS[int(colour.argmax())], as_file(pixels, "PNG")
    return found


def opened(page: Page, files: dict[str, tuple[str, bytes]]) -> Any:
    """Drop files, and open the queue."""
    sent: list[Upload] = [upload(name, content) for name, (_, content) in files.items()]
    page.set_input_files("#files", sent)
    # A server that knows nothing asks what all of them show.
    page.get_by_role("dialog", name="What do these").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="What to label next").click()
    dialog = page.get_by_role("dialog", name="What to label next")
    expect(dialog.locator("#next-work")).to_be_visible()
    return dialog


def at_hand(dialog: Any, *before: str) -> str:
    """The name of the image that is shown, once it is none of those before."""
    for name in before:
        expect(dialog.locator("#next-name")).not_to_have_text(name)
    return str(dialog.locator("#next-name").inner_text())


def order(server: Server, files: dict[str, tuple[str, bytes]]) -> list[str]:
    """What the server itself says of files that nobody has labelled."""
    parts = [("file", (name, content)) for name, (_, content) in files.items()]
    made = httpx.post(f"{server.url}/v1/embed?logits=true", files=parts, headers={"Accept": "application/octet-stream"})
    headers = {"Content-Type": "application/octet-stream", "X-Shape": made.headers["x-shape"]}
    found = httpx.post(f"{server.url}/v1/suggest?count=10", content=made.content, headers=headers).json()
    return [list(files)[one["place"]] for one in found["suggested"]]


def test_images_come_in_the_servers_order_with_a_reason_and_are_labelled_by_a_key_each(
    server: Server, visit: Visit
) -> None:
    page, files = visit(server), pictures(40)
    asked: list[str] = []
    page.on("request", lambda call: asked.append(call.url) if "/v1/suggest" in call.url else None)
    expected = order(server, files)
    assert len(expected) == 10
    dialog = opened(page, files)
    expect(dialog.locator("#next-why")).to_have_text(
        re.compile(r"^(Typical of \d+ photos|Like no other of these photos)\.$")
    )
    assert violations(page) == []
    seen: list[str] = []
    keys: list[str] = []
    for place in range(10):
        name = at_hand(dialog, *seen[-1:])
        assert name == expected[place]
        expect(dialog.locator("#next-picture")).to_have_attribute("alt", name)
        seen.append(name)
        label = files[name][0]
        if label in keys:
            expect(dialog.locator("#next-slots li", has_text=label)).to_be_visible()
            slots = dialog.locator("#next-slots li").all_inner_texts()
            page.keyboard.press(next(text.split()[0] for text in slots if text.split()[-1] == label))
        else:
            page.keyboard.press("l")
            page.keyboard.type(f" {label} ")
            page.keyboard.press("Enter")
            keys.append(label)
            if len(keys) == 1:
                give_key(page)
    assert len(keys) >= 2
    # After ten labels the order is asked for anew.
    name = at_hand(dialog, seen[-1])
    assert name not in seen
    assert len(asked) == 2
    expect(dialog.locator("#next-count")).to_have_text("10 labels")
    told = [files[name][0] for name in seen]
    assert counts(server) == {label: told.count(label) for label in set(told)}


def test_what_was_done_is_taken_back_and_skipped_images_stay_away(server: Server, visit: Visit) -> None:
    page, files = visit(server, viewport={"width": 390, "height": 844}), pictures(30)
    dialog = opened(page, files)
    assert violations(page) == []
    first = at_hand(dialog)
    page.keyboard.press("s")
    second = at_hand(dialog, first)
    expect(dialog.locator("#next-count")).to_have_text("0 labels, 1 skipped")
    page.get_by_label("Type a label").fill("one")
    page.get_by_role("button", name="Label", exact=True).click()
    give_key(page)
    third = at_hand(dialog, second)
    assert counts(server) == {"one": 1}
    expect(dialog.locator("#next-slots li")).to_have_text(["1 one"])
    dialog.get_by_role("button", name="Undo").click()
    expect(dialog.locator("#next-name")).to_have_text(second)
    expect(dialog.get_by_role("status")).to_have_text(f"Undone: {second}.")
    page.wait_for_function("async () => (await (await fetch('v1/model')).json()).entries === 0")
    page.keyboard.press("u")
    expect(dialog.locator("#next-name")).to_have_text(first)
    expect(dialog.get_by_role("button", name="Undo")).to_be_disabled()
    page.keyboard.press("s")
    expect(dialog.locator("#next-name")).to_have_text(second)
    # An empty label is none.
    page.get_by_role("button", name="Label", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("Say what it shows.")
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="What to label next").click()
    assert at_hand(dialog, first) != first
    assert third in files


def test_the_end_is_said_and_skipped_images_come_again(server: Server, visit: Visit) -> None:
    page, files = visit(server), pictures(3)
    dialog = opened(page, files)
    seen: list[str] = []
    for _ in range(3):
        seen.append(at_hand(dialog, *seen[-1:]))
        page.keyboard.press("s")
    expect(dialog.get_by_role("status")).to_have_text("All of the others were skipped.")
    expect(dialog.locator("#next-work")).to_be_hidden()
    page.keyboard.press("u")
    expect(dialog.locator("#next-work")).to_be_visible()
    page.keyboard.press("s")
    expect(dialog.locator("#next-work")).to_be_hidden()
    assert violations(page) == []
    # What was skipped comes again when nothing else is left.
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="What to label next").click()
    expect(dialog.locator("#next-work")).to_be_visible()


def test_another_generation_has_the_images_embedded_anew(server: Server, visit: Visit, tmp_path: Path) -> None:
    page, files = visit(server), pictures(40)
    calls: list[str] = []
    page.on("response", lambda came: calls.append(f"{came.url.split('/v1/')[-1].split('?')[0]} {came.status}"))
    dialog = opened(page, files)
    at_hand(dialog)
    root = tmp_path / "bundles"
    made = index(nothing(), root, FromNetwork(str(tmp_path / "backbone.onnx")), IndexOptions())
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{server.url}/v1/admin/generations/{made}/activate", headers=headers).status_code == 200
    calls.clear()
    seen: list[str] = []
    for _ in range(10):
        seen.append(at_hand(dialog, *seen[-1:]))
        page.keyboard.press("s")
    assert at_hand(dialog, seen[-1]) not in seen
    asked = [call for call in calls if call.startswith(("embed", "suggest"))]
    assert asked == ["suggest 409", "embed 200", "suggest 200"]


def test_a_label_like_a_known_one_is_said_and_digits_are_typed_into_the_field(server: Server, visit: Visit) -> None:
    page, files = visit(server), pictures(20)
    dialog = opened(page, files)
    first = at_hand(dialog)
    field = page.get_by_label("Type a label")
    field.fill("plane  7")
    page.keyboard.press("Enter")
    give_key(page)
    second = at_hand(dialog, first)
    assert counts(server) == {"plane 7": 1}
    page.keyboard.press("l")
    page.keyboard.type("PLANE 71")
    expect(field).to_have_value("PLANE 71")
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    at_hand(dialog, second)
    expect(dialog.get_by_role("status")).to_contain_text("plane 7")
    assert counts(server) == {"plane 7": 1}


@pytest.mark.slow
def test_labels_wait_for_a_server_that_is_started_again(
    serve: Serve, server: Server, visit: Visit, tmp_path: Path
) -> None:
    page, files = visit(server), pictures(30)
    dialog = opened(page, files)
    first = at_hand(dialog)
    page.get_by_label("Type a label").fill("one")
    page.keyboard.press("Enter")
    give_key(page)
    seen = [first, at_hand(dialog, first)]
    server.stop()
    for _ in range(9):
        page.keyboard.press("1")
        if len(seen) < 10:
            seen.append(at_hand(dialog, seen[-1]))
    expect(dialog.get_by_role("status")).to_contain_text("The server does not answer. Is it running?")
    again = serve(port=int(server.url.rsplit(":", 1)[1]), bundles=tmp_path / "bundles", admin_key=KEY)
    page.evaluate("document.getElementById('away-now').click()")  # which may be hidden again by now
    assert at_hand(dialog, *seen) not in seen
    assert counts(again) == {"one": 10}
