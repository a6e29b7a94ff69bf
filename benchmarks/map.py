"""What a map of many points costs: the server's part, and a browser's: ``python -m benchmarks.map``.

The server's part is timed on random keys; the page is a real one, in Chromium, to which this gives points of its own in
the server's place. Without a graphics card WebGL is computed by the processor (SwiftShader): with one it is faster.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import numpy as np

from benchmarks.started import KEY, serving
from secondlook.curation.map import positions, principal_axes, sampled
from secondlook.model.bundles.default import default_root
from secondlook.model.stores.store import ExactStore

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
WITHOUT = ("--disable-3d-apis",)
FRAMES = """async canvas => {
    const times = [];
    let last = 0;
    for (let i = 0; i < 120; i += 1) {
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: i % 30 < 15 ? "ArrowRight" : "ArrowLeft" }));
        if (i % 10 === 0) canvas.dispatchEvent(new KeyboardEvent("keydown", { key: i % 40 < 20 ? "+" : "-" }));
        const now = await new Promise(requestAnimationFrame);
        if (last) times.push(now - last);
        last = now;
    }
    return times;
}"""


def points(count: int) -> bytes:
    """Ten groups of points, as the server writes them."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 10, count)
    where = random.normal(size=(10, 2))[classes] * 4 + random.normal(size=(count, 2))
    parts = (np.arange(count).astype("<f8"), where.astype("<f4"), classes.astype("<i4"), np.zeros(count, np.uint8))
    return b"".join(part.tobytes() for part in parts)


def of_server(count: int, dim: int) -> float:
    """Seconds for principal components of so many keys, and all positions."""
    keys = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    store = ExactStore(keys, np.zeros(count, np.int64))
    started = time.perf_counter()
    positions(store, principal_axes(sampled(store)))
    return time.perf_counter() - started


def of_page(url: str, count: int, flags: tuple[str, ...]) -> dict[str, Any]:
    """Times of a page that shows so many points."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *flags])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        headers = {"X-Shape": f"{count},2", "X-Total": str(count), "X-Generation": "made", "X-Change": "0"}
        body = points(count)
        page.route(
            "**/v1/admin/map?*",
            lambda route: route.fulfill(body=body, headers=headers, content_type="application/octet-stream"),
        )
        page.goto(f"{url}/#key={quote(KEY)}")
        page.locator("#status", has_text="The key was taken").wait_for()
        started = time.perf_counter()
        page.locator("#to-map").click()
        page.locator("#map .legend button").first.wait_for()
        shown = time.perf_counter() - started
        canvas = page.locator("#map canvas")
        frames = sorted(canvas.evaluate(FRAMES))
        has_webgl = page.evaluate("document.createElement('canvas').getContext('webgl2') !== null")
        browser.close()
    return {
        "webgl": has_webgl,
        "shown_s": shown,
        "frame_p50_ms": frames[len(frames) // 2],
        "frame_p99_ms": frames[int(0.99 * (len(frames) - 1))],
    }


@click.command()
@click.option("--points", "count", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--dim", type=click.IntRange(2), default=256, show_default=True, help="Numbers of a key.")
def main(count: int, dim: int) -> None:
    """Print what a map of so many points costs."""
    print(f"server: components and positions of {count:,} keys of {dim} numbers: {of_server(count, dim):.2f} s")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(shutil.copytree(default_root(), Path(folder) / "bundles"))) as url,
    ):
        for flags in ((), WITHOUT):
            told = of_page(url, count, flags)
            how = "WebGL 2 on the processor" if told["webgl"] else "no WebGL (a sample)"
            print(
                f"page, {how}: {count:,} points shown in {told['shown_s']:.2f} s; frames while it is moved and zoomed: "
                f"p50 {told['frame_p50_ms']:.1f} ms, p99 {told['frame_p99_ms']:.1f} ms"
            )


if __name__ == "__main__":
    main()
