"""Drawings of ours in class folders, for pictures of the page and to try it: ``python -m benchmarks.drawings``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

SIDE = 192
LARGE = 2 * SIDE
"""They are drawn twice as large, so that edges are smooth."""
Draw = Callable[["Pen"], None]


class Pen:
    """Draws shapes in units of a picture's side, moved and scaled as the whole drawing is."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.image = Image.new("RGB", (LARGE, LARGE))
        self.draw = ImageDraw.Draw(self.image)
        self.scale = self.random.uniform(0.8, 1.1)
        self.x, self.y = self.random.uniform(-0.08, 0.08, 2)

    def shade(self, *colour: int, by: float = 22) -> tuple[int, int, int]:
        """About that colour."""
        red, green, blue = (int(one) for one in np.clip(np.array(colour) + self.random.normal(0, by, 3), 0, 255))
        return red, green, blue

    def ground(self, sky: tuple[int, int, int], below: tuple[int, int, int], horizon: float) -> None:
        """A sky that fades, and what is below it."""
        for row in range(LARGE):
            part = 0.5 * row / LARGE
            self.draw.line((0, row, LARGE, row), tuple(int(one + part * (255 - one)) for one in sky))
        self.draw.rectangle((0, (horizon + self.y) * LARGE, LARGE, LARGE), below)

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        """Where points are that are given around the middle."""
        return [
            (LARGE * (0.5 + self.x + self.scale * (x - 0.5)), LARGE * (0.5 + self.y + self.scale * (y - 0.5)))
            for x, y in points
        ]

    def shape(self, colour: tuple[int, int, int], *points: tuple[float, float]) -> None:
        """A polygon."""
        self.draw.polygon(self.at(*points), colour)

    def box(self, colour: tuple[int, int, int], left: float, top: float, right: float, bottom: float) -> None:
        """A rectangle."""
        self.draw.rectangle(self.at((left, top), (right, bottom)), colour)

    def round(self, colour: tuple[int, int, int], x: float, y: float, wide: float, high: float | None = None) -> None:
        """An ellipse, by its middle and half its sides."""
        high = wide if high is None else high
        self.draw.ellipse(self.at((x - wide, y - high), (x + wide, y + high)), colour)

    @property
    def picture(self) -> Image.Image:
        """What was drawn, with a little noise."""
        small = np.asarray(self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), float)
        return Image.fromarray(np.clip(small + self.random.normal(0, 3, small.shape), 0, 255).astype(np.uint8))


def _sky(pen: Pen) -> tuple[int, int, int]:
    return pen.shade(*(((130, 180, 235), (150, 215, 215), (225, 205, 150))[pen.random.integers(3)]), by=14)


def _house(pen: Pen) -> None:
    pen.ground(_sky(pen), pen.shade(140, 175, 100), 0.78)
    pen.box(pen.shade(205, 170, 140), 0.26, 0.46, 0.74, 0.82)
    pen.shape(pen.shade(185, 60, 60), (0.2, 0.47), (0.5, 0.22), (0.8, 0.47))
    pen.box(pen.shade(110, 70, 45), 0.45, 0.62, 0.56, 0.82)
    for x in (0.32, 0.62):
        pen.box(pen.shade(150, 205, 235, by=8), x, 0.54, x + 0.09, 0.63)


def _tree(pen: Pen) -> None:
    pen.ground(_sky(pen), pen.shade(130, 170, 90), 0.8)
    pen.box(pen.shade(115, 75, 45), 0.46, 0.5, 0.54, 0.85)
    for _ in range(7):
        x, y = pen.random.normal((0.5, 0.36), (0.09, 0.07))
        pen.round(pen.shade(55, 140, 65), x, y, 0.13)


def _boat(pen: Pen) -> None:
    pen.ground(_sky(pen), pen.shade(60, 95, 170), 0.68)
    pen.box(pen.shade(70, 55, 45, by=8), 0.49, 0.22, 0.515, 0.68)
    pen.shape(pen.shade(235, 225, 215, by=10), (0.53, 0.25), (0.53, 0.62), (0.75, 0.62))
    pen.shape(pen.shade(205, 55, 55), (0.48, 0.28), (0.48, 0.62), (0.3, 0.62))
    pen.shape(pen.shade(190, 100, 60), (0.24, 0.67), (0.78, 0.67), (0.69, 0.78), (0.34, 0.78))


def _flower(pen: Pen) -> None:
    pen.ground(_sky(pen), pen.shade(120, 165, 85), 0.84)
    pen.box(pen.shade(70, 140, 60), 0.485, 0.45, 0.515, 0.88)
    petal = pen.shade(225, 90, 160)
    for turn in np.linspace(0, 2 * np.pi, 8, endpoint=False) + pen.random.uniform(0, 1):
        pen.round(petal, 0.5 + 0.14 * np.cos(turn), 0.38 + 0.14 * np.sin(turn), 0.085)
    pen.round(pen.shade(240, 200, 70), 0.5, 0.38, 0.08)


def _fish(pen: Pen) -> None:
    pen.ground(pen.shade(60, 140, 190), pen.shade(205, 185, 130), 0.88)
    body = pen.shade(240, 140, 50)
    pen.shape(body, (0.64, 0.5), (0.85, 0.36), (0.82, 0.5), (0.85, 0.64))
    pen.round(body, 0.45, 0.5, 0.25, 0.15)
    pen.shape(pen.shade(215, 110, 40), (0.4, 0.37), (0.55, 0.26), (0.56, 0.38))
    pen.round((250, 250, 250), 0.3, 0.46, 0.035)
    pen.round((25, 25, 30), 0.295, 0.46, 0.018)


def _mushroom(pen: Pen) -> None:
    pen.ground(_sky(pen), pen.shade(110, 135, 75), 0.8)
    pen.box(pen.shade(235, 225, 205, by=8), 0.43, 0.5, 0.57, 0.84)
    pen.round(pen.shade(190, 40, 45), 0.5, 0.45, 0.27, 0.19)
    for x, y in ((0.37, 0.42), (0.5, 0.34), (0.62, 0.44), (0.5, 0.52)):
        pen.round((245, 240, 235), x, y, 0.035)


def _cactus(pen: Pen) -> None:
    pen.ground(pen.shade(240, 200, 120, by=8), pen.shade(235, 175, 120, by=8), 0.78)
    green = pen.shade(45, 150, 95, by=10)
    pen.box(green, 0.43, 0.25, 0.57, 0.84)
    pen.round(green, 0.5, 0.25, 0.07)
    for left, top, x in ((0.24, 0.4, 0.29), (0.66, 0.34, 0.71)):
        pen.box(green, left, top, left + 0.1, 0.62)
        pen.round(green, x, top, 0.05)
    pen.box(green, 0.26, 0.54, 0.74, 0.63)


KNOWN: dict[str, Draw] = {
    "boat": _boat, "fish": _fish, "flower": _flower, "house": _house, "mushroom": _mushroom, "tree": _tree,
}  # fmt: skip
UNKNOWN: dict[str, Draw] = {"cactus": _cactus}


def drawing(name: str, seed: int) -> Image.Image:
    """One drawing of a thing, unlike those of other seeds."""
    pen = Pen(seed)
    (KNOWN | UNKNOWN)[name](pen)
    return pen.picture


def draw_folder(folder: Path, per_class: int, first: int = 0) -> None:
    """Draw so many of each known thing, into class folders."""
    for place, name in enumerate(KNOWN):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            drawing(name, 100_000 * place + number).save(folder / name / f"{name}-{number:04d}.png")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--per-class", type=click.IntRange(1), default=60, show_default=True)
def main(folder: Path, per_class: int) -> None:
    """Draw boats, fish, flowers, houses, mushrooms and trees into class folders below FOLDER."""
    draw_folder(folder, per_class)


if __name__ == "__main__":
    main()
