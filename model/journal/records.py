"""The records that go into a journal and come out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from secondlook.model.cache import Floats
from secondlook.model.images import Limits

SOURCE = "taught:"
"""What the source of a taught image begins with, where a rebuild has made an entry of it; its number follows."""

ACCEPTED = Limits(pixels=2**63 - 1)
"""Of taught images: each was accepted once, and is not lost to a limit that is lower now."""

Action = Literal["taught", "relabelled", "removed", "confirmed", "unconfirmed"]


def number_in(source: str) -> int | None:
    """The number of the taught image that a source names; None where it names another: a class may be called so too."""
    match = re.fullmatch(f"{SOURCE}([0-9]+)", source)
    return None if match is None else int(match[1])


class NewImage(NamedTuple):
    """An image to be added."""

    name: str
    """What to call it: a client's file name, cleaned."""
    content: bytes
    """A file of a format that is decoded, as it was sent."""
    keys: Mapping[tuple[str, bool], Floats] = {}
    """Keys (D,) by encoder and whether the image was mirrored, where they are known already."""
    thumbnail: bytes | None = None
    """A small PNG of it."""


class AddedImage(NamedTuple):
    """An image that was added; of one that was removed again only the number is left."""

    number: int
    label: str | None
    """None = removed."""


class Correction(NamedTuple):
    """A new label for an image of a dataset, or its removal."""

    dataset: str
    source: str
    label: str | None
    """None = removed."""


class Confirmation(NamedTuple):
    """An image's label that somebody looked at and found right."""

    dataset: str
    """Empty for a taught image."""
    source: str
    label: str


class Changed(NamedTuple):
    """The differences from an earlier state."""

    change: int
    """Number of the newest change; 0 = none yet."""
    token: bytes
    """That change's own, and no other's."""
    is_anew: bool
    """Whether it is all there is, because the earlier state is not one of this journal's: another one is there now, or
    an older copy was put back."""
    images: list[AddedImage]
    corrections: list[Correction]
    labels: dict[int, str]
    """Labels that were new to the root, by place in the order in which they were given."""


class Change(NamedTuple):
    """A line of the trail."""

    number: int
    at: str
    """Time, ISO 8601, UTC."""
    key: str
    """Name of the key that it was done with."""
    action: Action
    image: int | None
    """Number of a taught image."""
    dataset: str | None
    source: str
    label: str | None
    was: str | None


class Request(NamedTuple):
    """A call that may be repeated: the same key and digest get the first one's answer."""

    id: str
    digest: bytes


class Addition(NamedTuple):
    """The images of one call, as they were kept."""

    label: str
    """As it is kept."""
    is_new: bool
    """Whether nothing else has the label now."""
    numbers: list[int]
    change: int
    """The last change of the call: each image is one."""


class AddResult(NamedTuple):
    """The outcome of adding images."""

    answer: str
    is_repeated: bool
    """Whether the call was answered before, so that nothing was done now."""
