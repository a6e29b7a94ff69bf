"""Small pictures to send and to index."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 30)}


def picture(colour: str, size: tuple[int, int] = (32, 32), seed: int = 0) -> Image.Image:
    """A noisy plain picture, size (width, height)."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def make_image(colour: str, size: tuple[int, int] = (32, 32), format: str = "PNG", seed: int = 0) -> bytes:
    """The same as a file's bytes."""
    buffer = io.BytesIO()
    picture(colour, size, seed).save(buffer, format)
    return buffer.getvalue()


def make_folder(root: Path, per_class: int = 20) -> Path:
    """A dataset of class folders."""
    for c, colour in enumerate(COLOURS):
        (root / colour).mkdir(parents=True)
        for i in range(per_class):
            picture(colour, (40, 36), seed=1000 * c + i).save(root / colour / f"{i:03d}.png")
    return root


def make_shades(root: Path, per_class: int = 30, seed: int = 0) -> Path:
    """Colours between two of those, each in the folder of the nearer one; hardly two are alike."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        others = [other for other in COLOURS if other != name]
        for i in range(per_class):
            share, other = random.uniform(0, 0.48), COLOURS[others[i % len(others)]]
            mixed = (1 - share) * np.array(colour) + share * np.array(other)
            noisy = np.clip(mixed + random.normal(0, 6, (32, 32, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root


def photos(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth pictures with some detail, each unlike the others, as photos are: (count, side, side, 3)."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((side, side), 3)
        detail = random.normal(0, 8, (side, side, 3))
        made.append(np.clip(np.asarray(coarse) + detail, 0, 255).astype(np.uint8))
    return np.stack(made)


def as_file(image: NDArray[np.uint8], format: str, **options: int) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def striped(seed: int = 0) -> bytes:
    """An image of a class that nobody was trained on."""
    pixels = np.random.default_rng(seed).integers(0, 40, (32, 32, 3)).astype(np.uint8)
    pixels[:, ::4] += np.array((150, 40, 160), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
