"""What an encoder says of images."""

from __future__ import annotations

from typing import NamedTuple

from secondlook.model.cache import Floats


class Encoding(NamedTuple):
    """What an encoder says of B images."""

    logits: Floats
    """(B,C); C is 0 where the network has no head."""
    keys: Floats
    """(B,D), unit length."""
