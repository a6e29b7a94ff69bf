"""The journal: what people taught a root, durable before it is acknowledged."""

from secondlook.model.journal.confirmations import TAUGHT
from secondlook.model.journal.file import BUSY_SECONDS, JOURNAL, Stamp
from secondlook.model.journal.journal import Journal
from secondlook.model.journal.records import (
    ACCEPTED,
    SOURCE,
    Action,
    AddedImage,
    Addition,
    AddResult,
    Change,
    Changed,
    Confirmation,
    Correction,
    NewImage,
    Request,
    number_in,
)

__all__ = [
    "ACCEPTED",
    "BUSY_SECONDS",
    "JOURNAL",
    "SOURCE",
    "TAUGHT",
    "Action",
    "AddResult",
    "AddedImage",
    "Addition",
    "Change",
    "Changed",
    "Confirmation",
    "Correction",
    "Journal",
    "NewImage",
    "Request",
    "Stamp",
    "number_in",
]
