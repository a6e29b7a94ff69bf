"""The page with many images on it, in a browser."""

import httpx
import numpy as np
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Server
from tests.e2e.page import Upload, upload
from tests.images_for_tests import COLOURS, as_file

NAMES = list(COLOURS)


def colour(number: int) -> bytes:
    """One of the colours, or between two of them, or of none: as unlike as the photos of a folder."""
    random = np.random.default_rng(number)
    one, other = (np.array(COLOURS[name]) for name in (NAMES[number % 3], NAMES[(number + 1) % 3]))
    share = random.choice([0, 0, 0.3, 0.5])
    noisy = (1 - share) * one + share * other + random.normal(0, 25, (32, 32, 3))
    return as_file(np.clip(noisy, 0, 255).astype(np.uint8), "PNG")


def uploads(count: int, first: int = 0) -> list[Upload]:
    return [upload(f"{number:03d}.png", colour(number)) for number in range(first, first + count)]


def put(page: Page, files: list[Upload]) -> Locator:
    """Choose images, and wait until all are looked at; the grid."""
    page.set_input_files("#files", files)
    expect(page.locator("#grid")).to_be_visible()
    expect(page.locator("#looking")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("answered")
    return page.locator("#grid")


def cell(page: Page, name: str) -> Locator:
    return page.locator(f".cell[title='{name}']:visible")


def shown(page: Page) -> list[str]:
    """Names of the images in sight, in their order."""
    script = """() => [...document.querySelectorAll(".line:not([hidden])")]
        .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)
        .flatMap((row) => [...row.children])
        .filter((cell) => !cell.classList.contains("blank"))
        .map(({ title }) => title)
    """
    return list(page.evaluate(script))


def choose(page: Page, select: str, value: str) -> None:
    page.locator(select).select_option(value)


def counts(server: Server) -> dict[str, int]:
    model = httpx.get(f"{server.url}/v1/model").json()
    return dict(zip(model["classes"], model["counts"], strict=True))
