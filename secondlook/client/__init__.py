"""A client of a secondlook server: ``Client(url).predict("cat.png").label``.

It needs httpx (the extra ``client``), Pillow for arrays and pictures, and nothing that a server is made of.
"""

from secondlook.client.answers import (
    Change,
    ClassScore,
    Decisive,
    Embedding,
    Entry,
    Generation,
    Job,
    JobError,
    Model,
    NearEntry,
    Nearest,
    Neighbor,
    Novelty,
    Opinion,
    Prediction,
    Taught,
    TaughtCounts,
    TaughtEntry,
    Votes,
)
from secondlook.client.calls import Retry
from secondlook.client.client import Client
from secondlook.client.errors import (
    BusyError,
    ClientError,
    ConflictError,
    ImageReadError,
    KeyRefusedError,
    ListingError,
    NotFoundError,
    ProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)

__all__ = [
    "BusyError",
    "Change",
    "ClassScore",
    "Client",
    "ClientError",
    "ConflictError",
    "Decisive",
    "Embedding",
    "Entry",
    "Generation",
    "ImageReadError",
    "Job",
    "JobError",
    "KeyRefusedError",
    "ListingError",
    "Model",
    "NearEntry",
    "Nearest",
    "Neighbor",
    "NotFoundError",
    "Novelty",
    "Opinion",
    "Prediction",
    "ProblemError",
    "Retry",
    "Taught",
    "TaughtCounts",
    "TaughtEntry",
    "UnexpectedAnswerError",
    "UnreachableError",
    "Votes",
]
