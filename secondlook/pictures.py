"""Images as Python has them: one or several, and arrays and Pillow's pictures as pictures that lie upright."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

    Image = str | os.PathLike[str] | bytes | IO[bytes] | NDArray[np.uint8] | Pillow.Image

ORIENTATION = 0x0112
"""EXIF's number for how a camera was held: 1 to 8, 1 = upright."""


def is_one(images: Any) -> bool:
    """Whether that is one image and not several: text is a path, an array of two or three axes a picture."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(images, "read"):
        return True
    if is_picture(images):
        return True
    if hasattr(images, "__array_interface__"):
        return len(images.__array_interface__["shape"]) < 4
    return not isinstance(images, Iterable)


def is_picture(image: Any) -> TypeGuard[Pillow.Image]:
    """Whether it is one of Pillow's, which nobody can have who has not imported it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def read_open(file: Any) -> bytes:
    """The bytes that an open file still has.

    Raises:
        OSError, ValueError: it cannot be read.
        TypeError: it is open for reading text.
    """
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError("a file of images has to be open for reading bytes: open(path, 'rb')")
    return content


def as_picture(image: Any) -> Pillow.Image:
    """An array of uint8 (height, width) or (height, width, 3 or 4), or a picture, turned as its EXIF data says.

    Raises:
        TypeError: nothing of these, or an array of another shape or kind.
    """
    from PIL import Image as Pillow

    if is_picture(image):
        return _upright(image)
    if not hasattr(image, "__array_interface__"):
        raise TypeError(f"an image is a path, bytes, an open file, an array or a picture, not {type(image).__name__}")
    described = image.__array_interface__
    shape = tuple(described["shape"])
    if described["typestr"][1:] != "u1" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        found = f"{described['typestr']} {shape}"
        raise TypeError(f"an array of uint8 and shape (height, width) or (height, width, 3 or 4), not {found}")
    return Pillow.fromarray(image)


def _upright(image: Pillow.Image) -> Pillow.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data is met with errors of many kinds, and says nothing
        turn = None
    return image if turn is None else image.transpose(turn)
