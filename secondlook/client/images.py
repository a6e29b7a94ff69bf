"""Images as they are sent: bytes and a name, from paths, bytes, file objects, arrays and pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from secondlook.client.errors import ImageReadError
from secondlook.pictures import as_picture, is_picture, read_open

if TYPE_CHECKING:
    from PIL import Image as Pillow

    from secondlook.pictures import Image

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
        except ValueError as error:  # no name of a file
            raise ImageReadError(f"{path}: {error}") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return Part(name, bytes(image))
    if not is_picture(image) and callable(getattr(image, "read", None)):
        given = getattr(image, "name", None)
        try:
            content = read_open(image)
        except (OSError, ValueError) as error:
            raise ImageReadError(f"{given or name}: {error}") from error
        return Part(Path(given).name if isinstance(given, str) else name, content)
    try:
        return Part(name, _to_png(as_picture(image)))
    except (OSError, ValueError, SyntaxError) as error:  # of a picture that is read only now
        raise ImageReadError(f"{name}: {error}") from error


def _to_png(picture: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    (picture if picture.mode in _PNG_MODES else picture.convert("RGB")).save(buffer, "PNG")
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
