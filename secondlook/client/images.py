"""Images as they are sent: bytes and a name, from paths, bytes, file objects, arrays and pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from secondlook.client.errors import ImageReadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

    Image = str | os.PathLike[str] | bytes | IO[bytes] | NDArray[np.uint8] | Pillow.Image

_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
FILES, BYTES = 64, 16 << 20
"""Images and bytes in a request, at most: so many images a server takes by default, and so many bytes are lost when it
has to be sent again. An image of more bytes goes alone."""


class Part(NamedTuple):
    """One image of a request."""

    filename: str
    content: bytes


class Request(NamedTuple):
    """Images that are sent together."""

    parts: list[Part]
    places: list[ImageReadError | None]
    """For each image given, an error where it cannot be read; ``parts`` are those without."""


def is_one(images: Any) -> bool:
    """Whether that is one image and not several: text is a path, an array of two or three axes a picture."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(images, "read"):
        return True
    if hasattr(images, "__array_interface__"):
        return len(images.__array_interface__["shape"]) < 4
    return not isinstance(images, Iterable)


def encode(image: Image, place: int) -> Part:
    """Take a file as it is; an array (height, width), (height, width, 3 or 4) of uint8, or a picture, as PNG.

    Raises:
        ImageReadError: a file that cannot be read.
        TypeError: nothing of these, or an array of another shape or kind.
    """
    name = f"{place}.png"
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        # Bytes that are no UTF-8 cannot be sent as a name.
        name = path.name.encode(errors="backslashreplace").decode()
        try:
            if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
                raise ImageReadError(f"{path}: it is no regular file")
            return Part(name, path.read_bytes())
        except OSError as error:
            raise ImageReadError(f"{path}: {error.strerror or 'cannot be read'}") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return Part(name, bytes(image))
    if callable(reading := getattr(image, "read", None)):
        given = getattr(image, "name", None)
        try:
            content = reading()
        except (OSError, ValueError) as error:
            raise ImageReadError(f"{given or name}: {error}") from error
        if not isinstance(content, bytes):
            raise TypeError("a file of images has to be open for reading bytes: open(path, 'rb')")
        return Part(Path(given).name if isinstance(given, str) else name, content)
    if hasattr(image, "__array_interface__"):
        return Part(name, _to_png(image))
    raise TypeError(f"an image is a path, bytes, an open file, an array or a picture, not {type(image).__name__}")


def _to_png(image: Any) -> bytes:
    from PIL import Image as Pillow

    if isinstance(image, Pillow.Image):
        picture = image if image.mode in _PNG_MODES else image.convert("RGB")
    else:
        described = image.__array_interface__
        shape = described["shape"]
        if described["typestr"][1:] != "u1" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
            raise TypeError(
                f"an array of uint8 and shape (height, width) or (height, width, 3 or 4), not {described['typestr']} "
                f"{tuple(shape)}"
            )
        picture = Pillow.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def requests(images: Iterable[Image], files: int = FILES, size: int = BYTES) -> Iterator[Request]:
    """Group images in requests of so many at most, and of so many bytes.

    Read as they are asked for, so that a folder of any size needs the memory of a few requests.
    """
    request, held = Request([], []), 0
    for place, image in enumerate(images):
        part: Part | ImageReadError
        try:
            part = encode(image, place)
        except ImageReadError as error:
            part = error
        more = len(part.content) if isinstance(part, Part) else 0
        if request.places and (len(request.places) >= files or (request.parts and held + more > size)):
            yield request
            request, held = Request([], []), 0
        held += more
        if isinstance(part, Part):
            request.parts.append(part)
            request.places.append(None)
        else:
            request.places.append(part)
    if request.places:
        yield request
