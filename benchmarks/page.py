"""The page with many images on it, in a real browser: ``python -m benchmarks.page``.

Small images are made, a server is started on a copy of the default bundle, and Chromium's page is given all of them at
once: how long it takes until they are answered, what the page holds then, how long a frame takes while it is scrolled,
and how long a label takes that is given by a key, until the page goes on and until the server has kept it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image

from benchmarks.started import KEY, serving
from secondlook.commands.shared.options import json_option, print_json
from secondlook.evaluation.machine import Machine, machine
from secondlook.model.bundles.default import default_root

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FRAMES = 600
"""Frames drawn while the grid is scrolled, at each pace."""
PACES = {"a wheel's": 60, "a dragged bar's": 1500}
"""Pixels that are scrolled from one frame to the next."""
PATIENCE_MS = 3_600_000

SCROLL = """async ([frames, pixels]) => {
    const grid = document.getElementById("grid");
    grid.scrollTop = 0;
    const frame = () => new Promise(requestAnimationFrame);
    let before = await frame();
    const took = [];
    let way = pixels;
    for (let i = 0; i < frames; i += 1) {
        if (grid.scrollTop + way < 0 || grid.scrollTop + way > grid.scrollHeight - grid.clientHeight) way = -way;
        grid.scrollTop += way;
        const now = await frame();
        took.push(now - before);
        before = now;
    }
    return took;
}"""


@dataclass(frozen=True)
class Held:
    """What the page holds."""

    heap_mb: float
    """JavaScript's heap, after its garbage was collected."""
    nodes: int
    """Of the document."""


@dataclass(frozen=True)
class Frames:
    """Milliseconds from one frame to the next."""

    p50_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True)
class Labels:
    """Labels that were given by number keys, one image after the other."""

    count: int
    key_s: float
    """Seconds a label until the page has taken the key and is at the next image."""
    kept_s: float
    """Seconds a label until the server has kept all of them."""
    kept: int
    """Images that the server has more than before."""


@dataclass(frozen=True)
class Result:
    """The page with many images."""

    machine: Machine
    images: int
    dropped_s: float
    """Until the page shows the grid and takes keys."""
    answered_s: float
    """Until all of them are answered."""
    empty: Held
    full: Held
    scrolled: dict[str, Frames]
    after: Held
    """When all of it was scrolled past."""
    labels: Labels | None


def make_images(folder: Path, count: int, side: int) -> list[str]:
    """So many JPEGs, each unlike the others; their paths."""
    paths = []
    for number in range(count):
        made = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(made).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(str(path))
    return paths


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium.

    Raises:
        click.ClickException: it or Playwright is not here.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise click.ClickException("Playwright for Python is missing: make setup-test") from error
    path = shutil.which("chromium")
    if path is None:
        raise click.ClickException("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _held(page: Page) -> Held:
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    devtools.send("Performance.enable")
    figures = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    devtools.detach()
    return Held(figures["JSHeapUsedSize"] / 1e6, int(figures["Nodes"]))


def _taught(page: Page) -> int:
    return int(page.evaluate("() => fetch('v1/model').then((said) => said.json()).then(({ taught }) => taught.images)"))


def _label(page: Page, count: int) -> Labels:
    """Give labels by the keys 1 to 9, as fast as the page takes them."""
    before = _taught(page)
    page.locator("#grid").focus()
    page.keyboard.press("Home")
    began = time.perf_counter()
    for number in range(count):
        page.keyboard.press(str(1 + number % 9))
    pressed = time.perf_counter() - began
    page.wait_for_function("() => !document.getElementById('teaching').textContent", timeout=PATIENCE_MS)
    kept = time.perf_counter() - began
    return Labels(count, pressed / count, kept / count, _taught(page) - before)


def measure(images: int, side: int, labels: int) -> Result:
    """Run it.

    Raises:
        click.ClickException: there is no browser, or the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="secondlook-page-") as place, chromium() as browser:
        folder, root = Path(place) / "images", Path(place) / "bundles"
        folder.mkdir()
        shutil.copytree(default_root(), root)
        paths = make_images(folder, images, side)
        with serving(root) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{address}/#key={KEY.replace(' ', '%20')}")
            page.get_by_text("The key was taken from the address").wait_for()
            empty = _held(page)
            began = time.perf_counter()
            page.set_input_files("#files", paths)
            page.locator(".cell strong").first.wait_for()
            shown = time.perf_counter() - began
            page.wait_for_function(_ANSWERED, arg=images)
            answered = time.perf_counter() - began
            full = _held(page)
            scrolled = {pace: _frames(page.evaluate(SCROLL, [FRAMES, pixels])) for pace, pixels in PACES.items()}
            after = _held(page)
            given = _label(page, min(labels, images)) if labels else None
            result = Result(machine(), images, shown, answered, empty, full, scrolled, after, given)
    return result


_ANSWERED = """(images) => {
    const all = [...document.getElementById("show").options].find(({ value }) => value === "all").textContent;
    return document.getElementById("looking").hidden && all.includes(images.toLocaleString("en"));
}"""


def _frames(took: list[float]) -> Frames:
    p50, p99 = np.percentile(took, [50, 99])
    return Frames(float(p50), float(p99), max(took))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.IntRange(9), default=10_000, show_default=True)
@click.option("--side", type=click.IntRange(8), default=128, show_default=True, help="Pixels of an image's sides.")
@click.option("--labels", type=click.IntRange(0), default=1_000, show_default=True, help="Labels given by a key each.")
@json_option
def main(images: int, side: int, labels: int, as_json: bool) -> None:
    """Measure the page with many images on it, in Chromium."""
    result = measure(images, side, labels)
    if as_json:
        told: dict[str, Any] = {**asdict(result), "machine": result.machine.model_dump()}
        print_json(**told)
        return
    click.echo(f"{result.machine.processor}, {result.machine.cores} cores")
    click.echo(
        f"{images:,} images: the grid after {result.dropped_s:.1f} s, all answered after {result.answered_s:.1f} s"
    )
    for when, held in (("empty", result.empty), ("with all", result.full), ("scrolled past", result.after)):
        click.echo(f"the page, {when}: {held.heap_mb:.1f} MB of JavaScript's heap, {held.nodes:,} DOM nodes")
    for pace, frames in result.scrolled.items():
        click.echo(
            f"scrolled at {pace} pace: a frame each {frames.p50_ms:.1f} ms (p50), {frames.p99_ms:.1f} ms (p99), "
            f"{frames.longest_ms:.0f} ms (longest)"
        )
    if result.labels is not None:
        click.echo(
            f"{result.labels.count:,} labels by keyboard: {result.labels.key_s:.4f} s each until the next image, "
            f"{result.labels.kept_s:.4f} s each until the server has kept all {result.labels.kept:,}"
        )


if __name__ == "__main__":
    main()
