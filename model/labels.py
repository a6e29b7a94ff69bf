"""Which names a class may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

from model.errors import LabelTakenError, ParameterError

MAX_LABEL = 100
"""Characters of a class's name."""


def fold(label: str) -> str:
    """A label without what people do not tell apart: case, white space, and ways to write the same character."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def check_label(label: str, known: Sequence[str] = ()) -> None:
    """Refuse what cannot name a class, or would be taken for another one that is known.

    Raises:
        ParameterError: it is empty, too long, or not plain text.
        LabelTakenError: it differs from a known label only by case or white space.
    """
    if label in known:
        return
    folded = fold(label)
    if not folded:
        raise ParameterError("label: it is empty: say what the images show")
    for other in known:
        if fold(other) == folded:
            raise LabelTakenError(other)
    if len(label) > MAX_LABEL:
        raise ParameterError(f"label: it has {len(label):,} characters, at most {MAX_LABEL} are accepted")
    if not label.isprintable():
        raise ParameterError("label: it has characters that do not print")
    if label != " ".join(label.split()):
        raise ParameterError("label: it has white space at an end, or twice in a row")


def new_labels(given: Sequence[str], used: Collection[str], own: Sequence[str]) -> list[str]:
    """The used labels that are none of a generation's ``own``, in the order in which they were ``given`` to the root.

    One that another generation knew by itself when it was given comes after those.
    """
    new = [label for label in given if label in used and label not in own]
    return new + sorted(set(used) - {*own, *new})
