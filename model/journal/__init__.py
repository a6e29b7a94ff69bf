"""The journal: what people taught a root, durable before it is acknowledged."""

from secondlook.model.journal.file import BUSY_SECONDS, JOURNAL, Stamp
from secondlook.model.journal.journal import Journal
from secondlook.model.journal.records import (
    ACCEPTED,
    SOURCE,
    Action,
    AddedImage,
    AddResult,
    Change,
    Changed,
    Correction,
    Kept,
    NewImage,
    Request,
    number_in,
)

__all__ = [
    "ACCEPTED",
    "BUSY_SECONDS",
    "JOURNAL",
    "SOURCE",
    "Action",
    "AddResult",
    "AddedImage",
    "Change",
    "Changed",
    "Correction",
    "Journal",
    "Kept",
    "NewImage",
    "Request",
    "Stamp",
    "number_in",
]
