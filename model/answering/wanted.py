"""What else than a prediction may be wanted of an image: its key, or the entries nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import ParameterError

MAX_SEARCHED, SEARCHED = 200, 20
"""Entries that a search gives, at most and where nobody says."""


@dataclass(frozen=True)
class Embed:
    """The key alone: the store is not asked."""


@dataclass(frozen=True)
class Search:
    """The k nearest entries alone, without a vote.

    Raises:
        ParameterError: k is out of its range.
    """

    k: int = SEARCHED

    def __post_init__(self) -> None:
        if not isinstance(self.k, Integral) or isinstance(self.k, bool) or not 1 <= self.k <= MAX_SEARCHED:
            raise ParameterError(f"k must be a whole number from 1 to {MAX_SEARCHED}, not {self.k!r}")


@dataclass(frozen=True)
class Embedded:
    """An image's key, and what its network says."""

    key: Floats
    """(D,) of length 1."""
    logits: Floats
    """(C,); none where it has no head."""


@dataclass(frozen=True)
class Found:
    """The entries nearest to an image, nearest first."""

    ids: Ints
    """(n,); -1 = the store has no more entries."""
    values: Ints
    """(n,) their labels."""
    similarities: Floats
    """(n,)."""
