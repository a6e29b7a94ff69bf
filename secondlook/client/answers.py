"""What a server answers, as frozen dataclasses.

Written by hand and not generated from OpenAPI: a generated client neither repeats nor splits calls, which is what there
is to do here. A test holds these classes to the server's document; members that are not known here are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from secondlook import answers as of_images
from secondlook.answers import ClassScore as ClassScore
from secondlook.answers import Decisive as Decisive
from secondlook.answers import Embedding as Embedding
from secondlook.answers import NearEntry as NearEntry
from secondlook.answers import Nearest as Nearest
from secondlook.answers import Neighbor as Neighbor
from secondlook.answers import Novelty as Novelty
from secondlook.answers import Opinion as Opinion
from secondlook.answers import Prediction as Prediction
from secondlook.answers import Votes as Votes
from secondlook.client.errors import ClientError, ProblemError, UnexpectedAnswerError, problem_error

T = TypeVar("T")


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
    """What runs the encoder, and in which precision."""
    engine_why: str = ""
    """Why that one; empty on a GPU, and where the server is an older one."""
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
    few_classes: list[str] = field(default_factory=list)
    """Those of them that the cache alone knows all the same: there were too few images to fit a linear head on."""
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
    teachable: bool | None = None
    """Whether images can be taught to it now, by whoever has an admin key; None = the server is an older one."""
    why_not_teachable: str | None = None
    """Why not, in a sentence."""


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
    before: Opinion | None
    """What it was taken for until then; None where nothing was known."""
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
    """``taught``, ``relabelled``, ``removed``, ``confirmed`` or ``unconfirmed``."""
    entry: int | None
    """Id of the taught image; None for an image of a dataset."""
    source: str
    label: str | None
    """None = it was removed."""
    was: str | None
    dataset: str | None = None


@dataclass(frozen=True)
class Job:
    """A rebuild, or a look at all entries (``kind``: ``audit``, ``map``); running or over."""

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
    kind: str = "rebuild"
    found: str | None = None


class JobError(ClientError):
    """A rebuild is over without a result; ``job`` says more."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.kind} {job.id} {job.state}{f': {job.error}' if job.error else ''}")
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
    """Read a JSON object as one of these classes, with members that it does not have itself.

    Raises:
        UnexpectedAnswerError: it is no object, or lacks a member.
    """
    try:
        return of_images.read(kind, document, **more)
    except ValueError as error:
        raise UnexpectedAnswerError(str(error)) from error


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
