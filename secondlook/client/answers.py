"""What a server answers, as frozen dataclasses.

Written by hand and not generated from OpenAPI: a generated client neither repeats nor splits calls, which is what there
is to do here. A test holds these classes to the server's document; members that are not known here are left out.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from secondlook.client.errors import ClientError, ProblemError, UnexpectedAnswerError, problem_error

T = TypeVar("T")


class Asked(TypedDict, total=False):
    """What predictions may be asked for; None leaves a choice to the server."""

    top: int | None
    neighbors: int | None
    lam: float | None
    theta: float | None
    k: int | Literal["all"] | None
    votes: int | None
    coverage: float | None
    abstain: bool
    concurrency: int


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


@dataclass(frozen=True)
class TaughtCounts:
    """How what answers differs from its generation, by what was taught."""

    images: int
    relabelled: int
    removed: int
    change: int
    suggests_rebuild: bool


@dataclass(frozen=True)
class Model:
    """The bundle that answers."""

    generation: str
    created: str
    classes: list[str]
    theta: float
    lam: float
    k: int | None
    entries: int
    dataset: dict[str, Any]
    network: dict[str, Any]
    store: dict[str, Any]
    engine: str
    preprocess: dict[str, Any] | None = None
    """How an image becomes the network's input: geometry and arithmetic; None = the server is an older one."""
    calibration: dict[str, Any] | None = None
    truncation: dict[str, Any] | None = None
    parameters_from: str | None = None
    """``holdout``, ``cross-validation``, ``leave-one-out`` or ``given``."""
    holdout: dict[str, Any] | None = None
    """What the parameters were fitted on; None where they were given."""
    network_classes: int | None = None
    """How many of the classes, the first ones, the network knows; 0 where it has no head."""
    dataset_classes: int | None = None
    """How many of the classes, the first ones, the dataset has; the others were taught."""
    head: str | None = None
    """``network``, ``linear`` or ``none``: what gives the network's probabilities."""
    proof: dict[str, Any] | None = None
    """What labelled images said of the network's preprocessing; None where that was not measured."""
    counts: list[int] = field(default_factory=list)
    """Entries of each class."""
    class_weights: list[float] = field(default_factory=list)
    """What one entry's vote for the class is multiplied with."""
    taught: TaughtCounts | None = None


@dataclass(frozen=True)
class Entry:
    """One cached entry. Its id belongs to the generation."""

    generation: str
    id: int
    label: str
    index: int
    source: str
    mirrored: bool
    thumbnail: str | None = None
    taught: bool = False
    was: str | None = None
    """Its label in the generation, where it has another one now."""


@dataclass(frozen=True)
class TaughtEntry:
    """An image that is an entry now."""

    id: int
    before: Opinion
    """What it was taken for until then."""
    filename: str | None = None


@dataclass(frozen=True)
class Taught:
    """What teaching came to; ``entries`` are in the order given, with an error in the place of an image not kept."""

    generation: str
    change: int
    label: str
    index: int | None
    is_new_class: bool
    entries: list[TaughtEntry | ClientError]


@dataclass(frozen=True)
class Change:
    """Something that was taught, relabelled or removed."""

    change: int
    at: str
    key: str
    action: str
    """``taught``, ``relabelled`` or ``removed``."""
    entry: int | None
    """Id of the taught image; None for an image of a dataset."""
    source: str
    label: str | None
    """None = it was removed."""
    was: str | None
    dataset: str | None = None


@dataclass(frozen=True)
class Job:
    """A rebuild, running or over."""

    id: str
    state: Literal["running", "succeeded", "failed", "cancelled"]
    stage: str
    done: int
    total: int
    created: datetime
    eta_s: float | None = None
    """Seconds that this stage will still take."""
    finished: datetime | None = None
    generation: str | None = None
    compared: str | None = None
    error: str | None = None


class JobError(ClientError):
    """A rebuild is over without a result; ``job`` says more."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"rebuild {job.id} {job.state}{f': {job.error}' if job.error else ''}")
        self.job = job


@dataclass(frozen=True)
class Generation:
    """One bundle of those that can be activated."""

    id: str
    is_active: bool
    is_readable: bool
    created: str | None = None
    dataset: str | None = None
    classes: int | None = None
    entries: int | None = None


def read(kind: type[T], document: Any, **more: Any) -> T:
    """Read a JSON object as one of the classes above, with members that it does not have itself.

    Raises:
        UnexpectedAnswerError: it is no object, or lacks a member.
    """
    if not isinstance(document, dict):
        raise UnexpectedAnswerError(f"no {kind.__name__} but {str(document)[:80]!r}")
    given = document | more
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]
    members = {name: _value(hint, given[name]) for name, hint in hints.items() if name in given}
    for member in fields(kind):  # type: ignore[arg-type]
        if member.name not in members and member.default is MISSING and member.default_factory is MISSING:
            raise UnexpectedAnswerError(f"a {kind.__name__} without {member.name}: is the server of another version?")
    return kind(**members)


def read_list(kind: type[T], document: Any) -> list[T]:
    """Read a list of such objects."""
    if not isinstance(document, list):
        raise UnexpectedAnswerError(f"no list but {str(document)[:80]!r}")
    return [read(kind, item) for item in document]


def is_problem(document: Any) -> bool:
    """Whether a problem stands in the place of an answer."""
    return isinstance(document, dict) and "status" in document and "type" in document


def read_or_problem(kind: type[T], document: Any, **more: Any) -> T | ProblemError:
    """Read one image's answer, or what is wrong with the image."""
    return problem_error(document) if is_problem(document) else read(kind, document, **more)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    """A member's value, read as its annotation says. Numbers and text stay as JSON gives them."""
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
            raise UnexpectedAnswerError(f"no time but {str(value)[:80]!r}") from error
    return read(hint, value) if isinstance(hint, type) and is_dataclass(hint) else value
