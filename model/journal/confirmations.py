"""Labels that a person looked at and found right, so that nobody is asked about them again.

A confirmation is of an image and of the label that it had: one that is relabelled afterwards may be doubted anew. It
holds for every generation, as the journal's other decisions do: an image of a dataset is known by its source, a taught
one by its number. The table is made with the first one, so that a journal without any is as it was.
"""

from __future__ import annotations

from secondlook.model.journal.file import Ask, JournalFile, Run
from secondlook.model.journal.records import Action, Confirmation, number_in
from secondlook.model.journal.trail import note_change

TAUGHT = ""
"""In place of the dataset of a taught image."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS confirmations (dataset TEXT NOT NULL, source TEXT NOT NULL, label TEXT NOT NULL, "
    "change INTEGER NOT NULL, PRIMARY KEY (dataset, source)) STRICT"
)


class Confirmations:
    """Those of a root's journal; safe to use from several threads. Raises what ``Journal`` does."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def all(self) -> list[Confirmation]:
        """All of them."""
        with self._file.reading() as read:
            if not read or not _is_there(read):
                return []
            return [Confirmation(*row) for row in read("SELECT dataset, source, label FROM confirmations")]

    def of(self, dataset: str) -> dict[str, str]:
        """The labels that were confirmed, by source: of a dataset's images, and of taught ones (``taught:7``)."""
        return {one.source: one.label for one in self.all() if one.dataset in (dataset, TAUGHT)}

    def add(self, dataset: str, source: str, label: str, key: str, *, own: str | None) -> str | None:
        """Note that an image shows what its label says, unless it has another one; the label that it has.

        ``own`` is the label that an image of a dataset has by itself. None where it is removed, or there is none.
        """
        with self._file.changing() as run:
            now = _label(run, dataset, source, own)
            if now != label:
                return now
            run(_TABLE)
            kept = _kept_as(dataset, source)
            noted = run("SELECT label FROM confirmations WHERE dataset = ? AND source = ?", *kept).fetchone()
            if noted is None or noted[0] != label:
                change = _note(run, key, "confirmed", dataset, source, label)
                run("INSERT OR REPLACE INTO confirmations VALUES (?, ?, ?, ?)", *kept, label, change)
            return now

    def take_back(self, dataset: str, source: str, key: str) -> bool:
        """Forget that an image's label was confirmed; whether it was."""
        with self._file.changing() as run:
            run(_TABLE)
            kept = _kept_as(dataset, source)
            noted = run("SELECT label FROM confirmations WHERE dataset = ? AND source = ?", *kept).fetchone()
            if noted is None:
                return False
            run("DELETE FROM confirmations WHERE dataset = ? AND source = ?", *kept)
            _note(run, key, "unconfirmed", dataset, source, noted[0])
            return True


def _is_there(read: Ask) -> bool:
    return bool(read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'confirmations'"))


def _kept_as(dataset: str, source: str) -> tuple[str, str]:
    return (dataset if number_in(source) is None else TAUGHT), source


def _label(run: Run, dataset: str, source: str, own: str | None) -> str | None:
    """What an image shows now, as far as the journal decides."""
    number = number_in(source)
    if number is not None:
        row = run("SELECT label FROM images WHERE number = ?", number).fetchone()
    else:
        row = run("SELECT label FROM corrections WHERE dataset = ? AND source = ?", dataset, source).fetchone()
        row = (own,) if row is None else row
    now: str | None = None if row is None else row[0]
    return now


def _note(run: Run, key: str, action: Action, dataset: str, source: str, label: str) -> int:
    number = number_in(source)
    of = None if number is not None else dataset
    return note_change(run, key, action, image=number, dataset=of, source=source, label=label, was=label)
