"""The trail of a journal: who did what and when, a line a change, which nothing is computed from."""

from __future__ import annotations

from datetime import UTC, datetime

from secondlook.model.journal.file import Run
from secondlook.model.journal.records import Action


def note_change(
    run: Run,
    key: str,
    action: Action,
    *,
    source: str,
    image: int | None = None,
    dataset: str | None = None,
    label: str | None,
    was: str | None = None,
) -> int:
    """Write a line of the trail; its number."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sql = (
        "INSERT INTO changes (at, key, action, image, dataset, source, label, was, token) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, randomblob(8))"
    )
    number = run(sql, at, key, action, image, dataset, source, label, was).lastrowid
    assert number is not None
    return number
