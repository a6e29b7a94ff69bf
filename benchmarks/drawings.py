"""Drawings of simple things, each unlike the others: pictures that may be shown, and that are told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 240
SCALE = 2
"""Drawn so much larger and made smaller: edges are smooth."""

Colour = tuple[int, int, int]


def _colour(random: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(part) for part in random.integers(low, high, 3))
    return red, green, blue


def _darker(colour: Colour, share: float = 0.72) -> Colour:
    red, green, blue = (int(share * part) for part in colour)
    return red, green, blue


def _cup(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    colour = _colour(random, 60, 235)
    width, height = size * random.uniform(0.5, 0.65), size * random.uniform(0.55, 0.75)
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    thick, rim = size * 0.07, size * 0.09
    side = 1 if random.random() < 0.5 else -1
    edge = right if side > 0 else left
    handle = (edge - height * 0.22, y - height * 0.25, edge + height * 0.22, y + height * 0.2)
    draw.ellipse(handle, outline=_darker(colour), width=int(thick))
    draw.rounded_rectangle((left, top, right, bottom), radius=size * 0.1, fill=colour)
    draw.rectangle((left, top, right, y), fill=colour)
    draw.ellipse((left, top - rim, right, top + rim), fill=_darker(colour, 0.85))
    inside = (left + thick / 2, top - rim + thick / 2, right - thick / 2, top + rim - thick / 3)
    draw.ellipse(inside, fill=(70, 42, 24) if random.random() < 0.7 else (235, 235, 225))


def _fish(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    colour = _colour(random, 60, 235)
    length, height = size * random.uniform(0.75, 0.9), size * random.uniform(0.3, 0.45)
    side = 1 if random.random() < 0.5 else -1
    tail = x - side * length * 0.42
    reach = size * 0.2
    draw.polygon(
        [(tail, y), (tail - side * reach, y - height * 0.55), (tail - side * reach, y + height * 0.55)],
        fill=_darker(colour),
    )
    fin = [(-0.15, -0.4), (0.1, -0.4), (-0.1, -0.8)]
    draw.polygon([(x + side * length * along, y + height * up) for along, up in fin], fill=_darker(colour))
    draw.ellipse((x - length / 2, y - height / 2, x + length / 2, y + height / 2), fill=colour)
    for i in range(int(random.integers(0, 4))):
        at = x + side * length * (0.1 - 0.14 * i)
        box = (at - height * 0.3, y - height * 0.35, at + height * 0.3, y + height * 0.35)
        begin, end = (300, 60) if side > 0 else (120, 240)
        draw.arc(box, begin, end, fill=_darker(colour), width=int(size * 0.03))
    eye = (x + side * length * 0.33, y - height * 0.1)
    for radius, fill in ((size * 0.045, (255, 255, 255)), (size * 0.022, (20, 20, 20))):
        draw.ellipse((eye[0] - radius, eye[1] - radius, eye[0] + radius, eye[1] + radius), fill=fill)


def _tree(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    trunk = (int(random.integers(80, 130)), int(random.integers(50, 85)), int(random.integers(25, 50)))
    leaves = (int(random.integers(20, 120)), int(random.integers(110, 190)), int(random.integers(20, 90)))
    width, bottom = size * random.uniform(0.07, 0.12), y + size * 0.5
    draw.rectangle((x - width / 2, y, x + width / 2, bottom), fill=trunk)
    if random.random() < 0.45:  # a fir
        for step in range(3):
            top, wide = y - size * (0.5 - 0.22 * step), size * (0.2 + 0.08 * step)
            draw.polygon([(x, top), (x - wide, top + size * 0.36), (x + wide, top + size * 0.36)], fill=leaves)
        return
    for i in range(int(random.integers(5, 9))):
        angle, far = 2 * math.pi * i / 7, size * random.uniform(0.1, 0.24)
        middle = (x + far * math.cos(angle), y - size * 0.16 + far * math.sin(angle))
        radius = size * random.uniform(0.14, 0.22)
        shade = leaves if i % 2 else _darker(leaves, 0.88)
        draw.ellipse((middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), fill=shade)


def _house(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    walls, roof = _colour(random, 150, 245), _colour(random, 80, 150)
    left, right, top, bottom = x - size * 0.35, x + size * 0.35, y - size * 0.1, y + size * 0.4
    draw.rectangle((left, top, right, bottom), fill=walls)
    draw.polygon([(left - size * 0.08, top), (x, y - size * 0.45), (right + size * 0.08, top)], fill=roof)
    draw.rectangle((x - size * 0.08, bottom - size * 0.28, x + size * 0.08, bottom), fill=_darker(roof))
    for at in (left + size * 0.08, right - size * 0.2):
        draw.rectangle((at, top + size * 0.1, at + size * 0.12, top + size * 0.22), fill=(190, 220, 240))


def _boat(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    hull, sail = _colour(random, 60, 180), _colour(random, 150, 255)
    mast, deck = x + size * random.uniform(-0.05, 0.05), y + size * 0.28
    draw.rectangle((mast - size * 0.015, y - size * 0.48, mast + size * 0.015, deck), fill=(80, 60, 45))
    for side, colour, wide in ((1, sail, 0.36), (-1, _darker(sail), 0.28)):
        low, begin = deck - size * 0.06, mast + side * size * 0.03
        draw.polygon([(begin, y - size * 0.45), (begin, low), (begin + side * size * wide, low)], fill=colour)
    ends = [(x - size * 0.45, deck), (x + size * 0.45, deck), (x + size * 0.3, y + size * 0.46)]
    draw.polygon([*ends, (x - size * 0.3, y + size * 0.46)], fill=hull)


def _flower(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    petals, middle = _colour(random, 120, 255), y - size * 0.15
    draw.rectangle((x - size * 0.02, middle, x + size * 0.02, y + size * 0.5), fill=(70, 140, 60))
    count, turned, far = int(random.integers(6, 10)), random.uniform(0, 1), size * 0.2
    for i in range(count):
        angle = 2 * math.pi * i / count + turned
        _disc(draw, x + far * math.cos(angle), middle + far * math.sin(angle), size * 0.12, petals)
    _disc(draw, x, middle, size * 0.12, (240, 200, 70))


def _mushroom(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    cap = (int(random.integers(150, 220)), int(random.integers(30, 90)), int(random.integers(30, 90)))
    stem, wide = size * random.uniform(0.08, 0.13), size * random.uniform(0.36, 0.46)
    draw.rectangle((x - stem, y, x + stem, y + size * 0.48), fill=(238, 228, 208))
    draw.pieslice((x - wide, y - size * 0.4, x + wide, y + size * 0.44), 180, 360, fill=cap)
    for along, up in ((-0.22, 0.1), (0, 0.25), (0.2, 0.12), (0.02, 0.08)):
        _disc(draw, x + size * along, y - size * up, size * 0.05, (246, 242, 236))


def _cactus(draw: ImageDraw.ImageDraw, random: np.random.Generator, x: float, y: float, size: float) -> None:
    green = (int(random.integers(30, 70)), int(random.integers(130, 170)), int(random.integers(80, 120)))
    trunk, arm = size * 0.12, size * 0.08
    arms = [(side, y + size * random.uniform(-0.2, 0), size * 0.34) for side in (-1, 1)]
    draw.rounded_rectangle((x - trunk, y - size * 0.45, x + trunk, y + size * 0.48), radius=trunk, fill=green)
    for side, top, far in arms:
        low = top + size * 0.24
        reach = sorted((x, x + side * (far + arm / 2)))
        draw.rounded_rectangle((reach[0], low - arm, reach[1], low), radius=arm / 2, fill=green)
        end = x + side * far
        draw.rounded_rectangle((end - arm / 2, top, end + arm / 2, low), radius=arm / 2, fill=green)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


KINDS = {"cup": _cup, "fish": _fish, "tree": _tree}
OTHER = "house"
"""What is none of these."""
MORE = {"boat": _boat, "flower": _flower, "mushroom": _mushroom, "cactus": _cactus}


def drawing(kind: str, seed: int) -> Image.Image:
    """One drawing; the same for the same seed."""
    kinds = {**KINDS, OTHER: _house, **MORE}
    random = np.random.default_rng(([*kinds].index(kind), seed))
    side = SIDE * SCALE
    made = Image.new("RGB", (side, side), _colour(random, 170, 250))
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, side * random.uniform(0.7, 0.85), side, side), fill=_colour(random, 130, 220))
    x, y = (side * random.uniform(0.42, 0.58) for _ in range(2))
    kinds[kind](draw, random, x, y, side * random.uniform(0.55, 0.8))
    angle, beside = float(random.uniform(-8, 8)), made.getpixel((2, 2))
    return made.rotate(angle, Image.Resampling.BICUBIC, fillcolor=beside).resize((SIDE, SIDE))


def make_drawings(root: Path, each: int = 12, first: int = 0, kinds: Iterable[str] = tuple(KINDS)) -> Path:
    """Drawings in folders of their kinds."""
    for kind in kinds:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + each):
            drawing(kind, seed).save(root / kind / f"{kind}-{seed:02d}.jpg", quality=90)
    return root
