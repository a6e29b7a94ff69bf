"""``docs/five-minutes.md`` as it is written: its commands are run on drawings, and its screenshots are made of them.

With SECONDLOOK_SCREENSHOTS=docs in the environment the screenshots are written there.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import expect

from benchmarks.drawings import KINDS, OTHER, drawing, make_drawings
from tests.e2e.conftest import until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/five-minutes.md").read_text()
COMMANDS = re.findall(r"^\$ (.*?)(?: +# .*)?$", DOCUMENT, re.MULTILINE)
START, ASK, AGAIN = COMMANDS
LINK = re.compile(r"ready: (http://127\.0\.0\.1:\d+/#key=\S+)")
ANSWERED = re.compile(r"│ (\w+) +│ +(\d+) │ +(\d+) of +(\d+) │")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the commands are typed."""
    make_drawings(tmp_path / "photos")
    make_drawings(tmp_path / "new", 1, first=100)
    (tmp_path / "new" / OTHER).mkdir()
    drawing(OTHER, 100).save(tmp_path / "new" / OTHER / f"{OTHER}-100.jpg")
    return tmp_path


def test_the_document_is_true(place: Path, home: dict[str, str], browser: Any, figures: Callable[[str], None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{home.get('PATH', '')}"
    environment = home | {"PATH": path, "SECONDLOOK_PORT": str(port), "PYTHONPATH": str(ROOT)}
    assert START == AGAIN
    said = [_started(command, place, environment) for command in (START,)]
    server, log = said[0]
    try:
        ready = LINK.search(log.read_text())
        assert ready is not None
        rows = {name: (photos, right, asked) for name, photos, right, asked in ANSWERED.findall(log.read_text())}
        in_document = {name: (photos, right, asked) for name, photos, right, asked in ANSWERED.findall(DOCUMENT)}
        assert rows.keys() == in_document.keys()
        assert all(int(right) >= 11 for name, (_, right, _) in rows.items() if name != "all"), rows
        asked = subprocess.run(
            ASK.replace(":8000", f":{port}"), shell=True, cwd=place, capture_output=True, text=True, check=True
        )
        assert '"label":"cup"' in asked.stdout.replace(" ", "")
        _look(place, browser, ready[1])
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    again, log = _started(AGAIN, place, environment)
    again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0
    assert "embed: " not in log.read_text()


def _started(command: str, place: Path, environment: dict[str, str]) -> tuple["subprocess.Popen[bytes]", Path]:
    """What the command serves, once it says so, and what it wrote."""
    log = place / "said.log"
    with log.open("w") as file:
        server = subprocess.Popen(command.split(), cwd=place, env=environment, stdout=file, stderr=subprocess.STDOUT)
    until(lambda: LINK.search(log.read_text()) or server.poll() is not None, 300)
    assert server.poll() is None, log.read_text()
    return server, log


def _look(place: Path, browser: Any, link: str) -> None:
    """Do on the page what the document says, and keep how that looks."""
    folder = Path(os.environ.get("SECONDLOOK_SCREENSHOTS") or place)
    folder = folder if folder.is_absolute() else ROOT / folder
    context = browser.new_context(viewport={"width": 1120, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.goto(link)
    page.set_input_files("#files", sorted((place / "new").glob("*/*.jpg")))
    for kind in KINDS:
        card = page.locator(".card", has=page.get_by_text(f"{kind}-100.jpg", exact=True)).first
        expect(card).to_have_attribute("aria-busy", "false")
        expect(card.get_by_role("heading", level=3)).to_contain_text(kind)
    page.screenshot(path=folder / "five-minutes-look.png", full_page=True)
    _, _, left, right = (card.bounding_box() for card in page.locator(".card").all())
    edge = 12
    width, height = right["x"] + right["width"] - left["x"], max(left["height"], right["height"])
    clip = {"x": left["x"] - edge, "y": left["y"] - edge, "width": width + 2 * edge, "height": height + 2 * edge}
    page.screenshot(path=folder / "page.png", full_page=True, clip=clip)
    page.get_by_role("link", name="Classes").click()
    expect(page.locator("#report .outcome")).to_contain_text("of 36")
    expect(page.get_by_role("group", name="What was taken for what")).to_be_visible()
    page.locator("#report").screenshot(path=folder / "five-minutes-report.png")
    context.close()
