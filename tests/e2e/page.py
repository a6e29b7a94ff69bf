"""The page in a browser: what a person does there, and what the server itself says."""

import io
import re
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import KEY, Server

Upload = dict[str, Any]
# A loaded machine is no reason to fail.
expect.set_options(timeout=20_000)
WRONG = re.compile("^That.s wrong")
"""The name of the button that teaches; its apostrophe is a printer's."""


def upload(name: str, content: bytes) -> Upload:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def striped(seed: int) -> bytes:
    """An image of a class that nobody knows yet."""
    pixels = np.random.default_rng(seed).integers(0, 40, (32, 32, 3)).astype(np.uint8)
    pixels[:, ::4] += np.array((150, 40, 160), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def look(page: Page, *uploads: Upload) -> list[Locator]:
    """Choose images; their cards, answered, in the order chosen."""
    page.set_input_files("#files", list(uploads))
    cards = [page.locator(".card", has=page.get_by_text(one["name"], exact=True)).first for one in uploads]
    for card in cards:
        expect(card).to_have_attribute("aria-busy", "false")
    return cards


def ask(server: Server, content: bytes, query: str = "") -> Any:
    """What the server itself says."""
    files = {"file": ("a.png", content)}
    return httpx.post(f"{server.url}/v1/predict?top=10&neighbors=12{query}", files=files).json()


def percent(share: float) -> str:
    """As the page writes it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.{0 if share in (0, 1) else 1}f} %"


def headline(said: dict[str, Any]) -> str:
    """The largest words of an answer: the label as far as it is to be trusted."""
    words = {"doubtful": f"perhaps {said['label']}", "unknown": "I don\u2019t know"}
    return words.get(said["standing"], said["label"])


def says(card: Locator, label: str) -> None:
    """A card's answer is that label, however far it is to be trusted."""
    expect(card).to_have_attribute("data-label", label)


def slide(page: Page, name: str, part: float) -> float:
    """Move a slider to a part of its way; what it says there."""
    page.locator(f"#{name}").evaluate(
        """(slider, part) => {
            slider.value = Math.round(part * slider.max);
            slider.dispatchEvent(new Event("input"));
        }""",
        part,
    )
    return float(page.locator(f"#{name}-value").inner_text())


def give_key(page: Page, key: str = KEY) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Go on").click()


def violations(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html']} {one['nodes'][0]['any']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
