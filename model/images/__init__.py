"""Image bytes to the uint8 RGB array that an encoder takes; the indexer and the server share it, so both see alike.

A file's structure is read here first, in few steps whatever it holds (``read_header``): what is too large, or made so
that few bytes cost much work, is refused before a decoder sees it, and what no decoder needs (texts, profiles,
thumbnails) is left out. Pillow and libheif then decode the rest, and what they give becomes RGB in bands.
"""

from secondlook.model.images.decoding import DRAFT, decode, read_header
from secondlook.model.images.fitting import fit
from secondlook.model.images.formats import DEFAULT_PIXELS, EXTENSIONS, FORMATS, Header, Limits, sniff
from secondlook.model.images.geometry import SMALL, Geometry, Interpolation, Rule

__all__ = [
    "DEFAULT_PIXELS",
    "DRAFT",
    "EXTENSIONS",
    "FORMATS",
    "SMALL",
    "Geometry",
    "Header",
    "Interpolation",
    "Limits",
    "Rule",
    "decode",
    "fit",
    "read_header",
    "sniff",
]
