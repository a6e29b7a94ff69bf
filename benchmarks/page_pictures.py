"""The picture of many images on the page that the documents show: ``python -m benchmarks.page_pictures``.

Drawings of ours are indexed with the small pretrained network, served, and the page is given others.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.drawings import drawing, make_drawings
from benchmarks.page import chromium
from benchmarks.started import KEY, serving

KNOWN = ("boat", "fish", "flower", "house", "mushroom", "tree")
UNKNOWN = "cactus"
MANY = 48


def _others(folder: Path) -> list[str]:
    """Drawings that were not indexed, some of nothing that is known."""
    folder.mkdir()
    many = []
    names = [*KNOWN, UNKNOWN]
    for number in range(MANY):
        path = folder / f"{number:02d}.png"
        drawing(names[5 * number % len(names)], 2000 + number).save(path)
        many.append(str(path))
    return many


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--per-class", type=click.IntRange(10), default=40, show_default=True, help="Drawings indexed of each.")
def main(out: Path, per_class: int) -> None:
    """Write page-many.png into the folder OUT."""
    with tempfile.TemporaryDirectory(prefix="secondlook-pictures-") as place, chromium() as browser:
        drawings, root = Path(place) / "drawings", Path(place) / "bundles"
        make_drawings(drawings, per_class, kinds=KNOWN)
        many = _others(Path(place) / "others")
        index = ["index", str(drawings), "--bundles", str(root), "--network", "efficientnet-lite0"]
        subprocess.run([sys.executable, "-m", "secondlook", *index], check=True)
        with serving(root) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
            page.goto(f"{address}/#key={KEY.replace(' ', '%20')}")
            page.get_by_text("The key was taken from the address").wait_for()
            page.set_input_files("#files", many)
            page.locator("#looking").wait_for(state="hidden")
            page.locator(".cell[data-state=answered] img:visible").nth(13).wait_for()
            page.locator("#grid").focus()
            for key in ("1", "6", "4", "ArrowRight", " ", "ArrowDown", " "):
                page.keyboard.press(key)
            page.locator(".mark", has_text="✓").nth(2).wait_for()
            page.wait_for_timeout(1000)
            page.evaluate("() => scrollTo(0, 0)")
            page.screenshot(path=out / "page-many.png")
    click.echo(out / "page-many.png")


if __name__ == "__main__":
    main()
