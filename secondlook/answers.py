"""What is said of an image, as frozen dataclasses, whether a server answers or a bundle that this process opened.

Their members are those of the HTTP contract. Nothing but Python itself is imported.
"""

from __future__ import annotations

import types
from array import array
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    Float32s = array[float]
else:
    Float32s = array  # which says what is in it to type checkers alone

T = TypeVar("T")


class Asked(TypedDict, total=False):
    """What predictions may be asked for; None leaves a choice to what answers."""

    top: int | None
    """Classes listed: 5, or 1 to 1,000."""
    neighbors: int | None
    """Nearest entries listed: none, or up to 50."""
    lam: float | None
    """Weight of the cache, for this call alone, as theta and k are."""
    theta: float | None
    k: int | Literal["all"] | None
    votes: int | None
    """Nearest entries told by class and similarity alone: none, or up to 1,000."""
    coverage: float | None
    """How often a set of labels is to hold the right one: each answer has such a set."""
    abstain: bool
    """Whether to say of each image if 'unknown' were the better answer."""


@dataclass(frozen=True)
class ClassScore:
    """One class's probability: mixed, and what network and cache say."""

    label: str
    index: int
    probability: float
    network: float | None
    """None where the network has no head."""
    cache: float | None
    """None where no entry voted."""


@dataclass(frozen=True)
class Opinion:
    """The most probable class by network or cache alone."""

    label: str
    probability: float


@dataclass(frozen=True)
class Novelty:
    """How unlike the cached images the image is; None = the model was not calibrated for that."""

    score: float
    is_novel: bool | None


@dataclass(frozen=True)
class Neighbor:
    """A cached entry near the image."""

    id: int
    label: str
    similarity: float
    weight: float
    """Its share of the cache's vote."""
    source: str = ""
    mirrored: bool = False
    taught: bool = False
    thumbnail: str | None = None


@dataclass(frozen=True)
class NearEntry:
    """A cached entry near the image, where nothing is voted on."""

    id: int
    label: str
    similarity: float
    source: str = ""
    mirrored: bool = False
    taught: bool = False
    thumbnail: str | None = None


@dataclass(frozen=True)
class Nearest:
    """The entries nearest to one image, nearest first."""

    generation: str
    neighbors: list[NearEntry]
    filename: str | None = None


@dataclass(frozen=True)
class Embedding:
    """One image's key."""

    generation: str
    embedding: Float32s = field(repr=False)
    """Numbers of float32, together of length 1; ``numpy.asarray`` makes (D,) of them without a copy."""
    filename: str | None = None


@dataclass(frozen=True)
class Decisive:
    """The fewest of the listed entries without whose votes another class would have won."""

    ids: list[int]
    instead: str


@dataclass(frozen=True)
class Votes:
    """The nearest entries, nearest first."""

    indices: list[int]
    """Their classes."""
    similarities: list[float]


@dataclass(frozen=True)
class Prediction:
    """What one image shows, and which model says so."""

    generation: str
    lam: float
    theta: float
    k: int | None
    """None = all entries vote."""
    label: str
    index: int
    probability: float
    top: list[ClassScore]
    network: Opinion | None
    """None where the network has no head: the cache answers alone."""
    cache: Opinion | None
    """None where no entry voted: the cache has none, or it could not be asked, and the network answered alone."""
    novelty: Novelty | None
    """None where the cache could not be asked."""
    filename: str | None = None
    standing: Literal["known", "doubtful", "unknown"] | None = None
    """How far to trust the label; None where the model was not calibrated."""
    credibility: float | None = None
    same_as: int | None = None
    """Id of the entry that is the same picture, whose label decides; None where none is."""
    neighbors: list[Neighbor] = field(default_factory=list)
    decisive: Decisive | None = None
    """With ``neighbors``; None where all those listed could be missing and the answer be the same."""
    votes: Votes | None = None
    """With ``votes``."""
    prediction_set: list[str] | None = None
    """With ``coverage``; None without a calibration."""
    abstained: bool | None = None
    """With ``abstain``."""


def read(kind: type[T], document: Any, **more: Any) -> T:
    """Read a JSON object as one of the classes above, with members that it does not have itself.

    Members that are not known here are left out.

    Raises:
        ValueError: it is no object, or lacks a member.
    """
    if not isinstance(document, dict):
        raise ValueError(f"no {kind.__name__} but {str(document)[:80]!r}")
    given = document | more
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]
    members = {name: _value(hint, given[name]) for name, hint in hints.items() if name in given}
    for member in fields(kind):  # type: ignore[arg-type]
        if member.name not in members and member.default is MISSING and member.default_factory is MISSING:
            raise ValueError(f"a {kind.__name__} without {member.name}: is the server of another version?")
    return kind(**members)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    """A member's value, read as its annotation says. Numbers and text stay as JSON gives them."""
    if hint is array:
        return array("f", value)
    if isinstance(hint, types.UnionType):  # X | None
        (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
        return None if value is None else _value(hint, value)
    if get_origin(hint) is list and isinstance(value, list):
        (item,) = get_args(hint)
        return [_value(item, one) for one in value] if is_dataclass(item) else value
    if hint is datetime:
        try:
            return datetime.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no time but {str(value)[:80]!r}") from error
    return read(hint, value) if isinstance(hint, type) and is_dataclass(hint) else value
