"""The map of the cache on the page, in a browser with WebGL and in one without, with a real server."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import CHROMIUM_FLAGS, KEY, Server
from tests.e2e.page import give_key, violations
from tests.images_for_tests import make_image

ADMIN = {"Authorization": f"Bearer {KEY}"}
Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def server(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> Server:
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), admin_key=KEY)
    files = {"file": ("a.png", make_image("red", (40, 36), seed=77))}
    httpx.post(f"{server.url}/v1/entries", files=files, data={"label": "blue"}, headers=ADMIN).raise_for_status()
    return server


def places(server: Server) -> tuple[list[int], Any]:
    """Ids of the points, and where they lie."""
    response = httpx.get(f"{server.url}/v1/admin/map", headers=ADMIN)
    count = int(response.headers["x-shape"].split(",")[0])
    ids = np.frombuffer(response.content, "<f8", count).astype(int).tolist()
    return ids, np.frombuffer(response.content, "<f4", 2 * count, 8 * count).reshape(-1, 2)


def opened(page: Page) -> Page:
    page.get_by_role("button", name="Enter the key").locator("visible=true").click()
    give_key(page)
    expect(page.locator("#map canvas")).to_be_visible()
    expect(page.locator("#map .legend button")).to_have_count(3)
    return page


def on_screen(page: Page, where: Any) -> Any:
    """Where points are drawn: as the page lays the whole map out, on the canvas (x, y from its left upper corner)."""
    box = page.locator("#map canvas").bounding_box()
    assert box is not None
    low, high = where.min(axis=0), where.max(axis=0)
    scale = 0.92 * min(box["width"] / (high[0] - low[0]), box["height"] / (high[1] - low[1]))
    middle = (low + high) / 2
    return np.stack(
        [
            box["width"] / 2 + (where[:, 0] - middle[0]) * scale,
            box["height"] / 2 - (where[:, 1] - middle[1]) * scale,
        ],
        axis=1,
    )


def lonely(at: Any) -> int:
    """The point whose nearest other is farthest."""
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return int(apart.min(axis=1).argmax())


def test_a_point_is_shown_opened_and_relabelled(server: Server, visit: Visit) -> None:
    page = opened(visit(server, "#map"))
    ids, where = places(server)
    at = on_screen(page, where)
    i = lonely(at)
    entry = httpx.get(f"{server.url}/v1/entries/{ids[i]}").json()
    canvas = page.locator("#map canvas")
    spot: Any = {"x": float(at[i, 0]), "y": float(at[i, 1])}
    canvas.hover(position=spot)
    expect(page.locator("#map .tip")).to_contain_text(entry["label"])
    canvas.click(position=spot)
    dialog = page.get_by_role("dialog", name=entry["label"])
    expect(dialog).to_contain_text(str(ids[i]))
    dialog.get_by_label("Not that? It shows").fill("violet")
    dialog.get_by_role("button", name="Relabel").click()
    expect(page.locator("#map .legend")).to_contain_text("violet")
    assert violations(page) == []


@pytest.mark.slow
def test_many_are_selected_with_a_lasso(server: Server, visit: Visit) -> None:
    page = opened(visit(server, "#map"))
    _, where = places(server)
    at = on_screen(page, where)
    box = page.locator("#map canvas").bounding_box()
    assert box is not None
    # Around all that is left of the widest gap.
    across = np.sort(at[:, 0])
    gap = int(np.diff(across).argmax())
    border = float(across[gap : gap + 2].mean())
    caught = int((at[:, 0] < border).sum())
    page.get_by_role("button", name="Lasso").click()
    edge = 16  # the plane's corners are round
    low = box["height"] - edge
    corners = [(edge, edge), (border, edge), (border, low), (edge, low), (edge, edge + 1)]
    page.mouse.move(box["x"] + corners[0][0], box["y"] + corners[0][1])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    title = page.locator("#caught-title")
    expect(title).to_have_text(f"{caught} images selected")
    expect(page.locator(".caught .tiles li")).to_have_count(min(caught, 36))
    assert violations(page) == []
    before = httpx.get(f"{server.url}/v1/model").json()
    page.get_by_label("They show").fill("violet")
    page.get_by_role("button", name=f"Relabel all {caught}").click()
    expect(page.locator("#map-status")).to_have_text(f"Relabelled {caught} images.")
    expect(page.locator("#map .legend").get_by_role("button", name="violet")).to_contain_text(str(caught))
    expect(title).to_have_text(f"{caught} images selected")
    after = httpx.get(f"{server.url}/v1/model").json()
    assert after["counts"][after["classes"].index("violet")] == caught
    page.locator(".caught").get_by_role("button", name="Undo").click()
    expect(page.locator("#map .legend")).not_to_contain_text("violet")
    assert httpx.get(f"{server.url}/v1/model").json()["counts"] == before["counts"]
    page.get_by_role("button", name="Select none").click()
    expect(title).to_be_hidden()


def test_the_keyboard_moves_zooms_and_opens(server: Server, visit: Visit) -> None:
    page = opened(visit(server, "#map"))
    _, where = places(server)
    at = on_screen(page, where)
    box = page.locator("#map canvas").bounding_box()
    assert box is not None
    canvas = page.locator("#map canvas")
    canvas.focus()
    # Zoomed out by far, some image is near the middle.
    for _ in range(3):
        page.keyboard.press("-")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("0")
    i = lonely(at)
    steps = [(at[i, 0] - box["width"] / 2) / 60, (at[i, 1] - box["height"] / 2) / 60]
    for step, (more, less) in zip(steps, (("ArrowRight", "ArrowLeft"), ("ArrowDown", "ArrowUp")), strict=True):
        for _ in range(round(abs(step))):
            page.keyboard.press(more if step > 0 else less)
    for _ in range(4):
        page.keyboard.press("-")
    page.keyboard.press("Enter")
    expect(page.locator("#entry-dialog")).to_be_visible()


def test_a_class_stands_out(server: Server, visit: Visit) -> None:
    page = opened(visit(server, "#map"))
    red = page.locator("#map .legend").get_by_role("button", name="red")
    expect(red).to_have_attribute("aria-pressed", "false")
    red.click()
    expect(red).to_have_attribute("aria-pressed", "true")
    red.click()
    expect(red).to_have_attribute("aria-pressed", "false")


@pytest.fixture
def without_webgl(browser: Browser) -> Iterator[Browser]:
    flags = [*CHROMIUM_FLAGS, "--disable-3d-apis"]
    another = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=flags)
    yield another
    another.close()


def test_without_webgl_the_map_is_drawn_and_said_to_be(server: Server, without_webgl: Browser) -> None:
    page = without_webgl.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{server.url}/#map")
    opened(page)
    assert page.evaluate("document.createElement('canvas').getContext('webgl2')") is None
    expect(page.locator("#map")).to_contain_text("This browser has no WebGL")
    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    page.wait_for_timeout(200)
    assert page.locator("#map canvas").evaluate(drawn)


def test_points_are_drawn_in_their_classes_colours(server: Server, visit: Visit) -> None:
    page = opened(visit(server, "#map"))
    expect(page.locator("#map")).not_to_contain_text("no WebGL")
    # Read in the frame in which it is drawn: the buffer is not kept after that.
    red = (0, 158, 115)  # the third colour
    seen = page.locator("#map canvas").evaluate(
        """canvas => new Promise((resolve) => {
            const gl = canvas.getContext("webgl2");
            canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "0" }));
            requestAnimationFrame(() => {
                const pixels = new Uint8Array(4 * canvas.width * canvas.height);
                gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
                const found = {};
                for (let i = 0; i < pixels.length; i += 4) {
                    if (pixels[i + 3] < 220) continue;
                    const name = [0, 1, 2].map((part) => Math.round(pixels[i + part] * 255 / pixels[i + 3])).join();
                    found[name] = (found[name] ?? 0) + 1;
                }
                resolve(found);
            });
        })"""
    )
    colours = {name: np.array([int(part) for part in name.split(",")]) for name in seen}
    near = [name for name, colour in colours.items() if np.abs(colour - red).max() <= 4]
    assert sum(seen[name] for name in near) > 100, seen
