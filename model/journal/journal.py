"""The journal of a root: what people taught its caches, beside the bundles and never inside one (docs/decisions/010).

It holds the present state: the images that were added, and corrections of images of datasets. Each row carries
the number of the change that wrote it last, so that a server asks only for what came since; ``added.overlay`` lays it
over a generation. Beside it stands a trail of who did what and when, which nothing is computed from.

What a change depends on is read in the transaction that writes it: several processes change the same images at once,
and none of them knows the present state before it has its turn (``model.journal.file``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from secondlook.model.cache import Floats
from secondlook.model.errors import AddedLimitError, RepeatedRequestError
from secondlook.model.journal.confirmations import Confirmations
from secondlook.model.journal.file import BUSY_SECONDS, JournalFile, Run, Stamp
from secondlook.model.journal.records import (
    SOURCE,
    Action,
    AddedImage,
    Addition,
    AddResult,
    Change,
    Changed,
    Correction,
    NewImage,
    Request,
)
from secondlook.model.journal.trail import note_change
from secondlook.model.labels import check_label, fold

REMEMBERED_REQUESTS = 10_000
"""Answers kept for repeated requests; older ones are forgotten."""


class Journal:
    """A root's journal; safe to use from several threads.

    One that is not there yet is made with the first change, and is empty until then. Every method raises JournalError
    where it cannot be read or written, was there and is gone, or (JournalFullError) the disk is full.
    """

    def __init__(self, root: Path) -> None:
        """Bring what is there up to date.

        Raises:
            JournalError: it is damaged, or made by another version.
        """
        self._file = JournalFile(root)
        self.confirmations = Confirmations(self._file)

    def stamp(self) -> Stamp | None:
        """As ``JournalFile.stamp``: whether there may be something new, at next to no cost."""
        return self._file.stamp()

    def require_writable(self) -> None:
        """As ``JournalFile.require_writable``: whether a change would be refused, as far as can be told without one."""
        self._file.require_writable()

    def newest(self) -> int:
        """Number of the newest change; 0 = none yet."""
        with self._file.reading() as read:
            return int(read("SELECT coalesce(max(number), 0) FROM changes")[0][0]) if read else 0

    def since(self, change: int = 0, token: bytes = b"", wait: float = BUSY_SECONDS) -> Changed:
        """Everything written after a change with that token; everything there is where no such change is known.

        ``wait`` is for how many seconds a change that is being written may keep it waiting.
        """
        with self._file.reading(wait) as read:
            if not read:
                return Changed(0, b"", change > 0, [], [], {})
            is_anew = False
            if change and read("SELECT token FROM changes WHERE number = ?", change) != [(token,)]:
                is_anew, change = True, 0
            newest = read("SELECT number, token FROM changes ORDER BY number DESC LIMIT 1")
            number, token = newest[0] if newest else (0, b"")
            return Changed(
                number,
                token,
                is_anew,
                [AddedImage(*row) for row in read("SELECT number, label FROM images WHERE change > ?", change)],
                [
                    Correction(*row)
                    for row in read("SELECT dataset, source, label FROM corrections WHERE change > ?", change)
                ],
                dict(read("SELECT position, label FROM labels WHERE change > ? ORDER BY position", change)),
            )

    def keys(self, encoder: str, since: int = 0, wait: float = BUSY_SECONDS) -> dict[tuple[int, bool], Floats]:
        """Keys (D,) that an encoder made of the images that changes after that one wrote, by number and mirrored."""
        with self._file.reading(wait) as read:
            rows = read and read(
                "SELECT keys.image, mirrored, key FROM images CROSS JOIN keys ON images.number = keys.image "
                "WHERE encoder = ? AND change > ?",
                encoder,
                since,
            )
            return _by_copy(rows or ())

    def keys_of(
        self, encoder: str, numbers: Sequence[int], wait: float = BUSY_SECONDS
    ) -> dict[tuple[int, bool], Floats]:
        """Keys (D,) that an encoder made of some images, as ``keys`` gives them."""
        with self._file.reading(wait) as read:
            rows = read and read(
                f"SELECT image, mirrored, key FROM keys WHERE image IN ({', '.join('?' * len(numbers))}) "
                "AND encoder = ?",
                *numbers,
                encoder,
            )
            return _by_copy(rows or ())

    def content(self, number: int) -> bytes | None:
        """A taught image's bytes; None where there is none of that number, or it was removed."""
        found: bytes | None = self._of_image("content", number)
        return found

    def image(self, number: int) -> tuple[str, str, bytes] | None:
        """A taught image's label, name and bytes; None where there is none of that number, or it was removed."""
        with self._file.reading() as read:
            rows = read and read("SELECT label, name, content FROM images WHERE number = ?", number)
            return rows[0] if rows and rows[0][0] is not None else None

    def thumbnail(self, number: int) -> bytes | None:
        """A small PNG of a taught image; None where there is no such image, or none was made of it yet."""
        found: bytes | None = self._of_image("thumbnail", number)
        return found

    def changes(self, before: int | None = None, limit: int = 50) -> list[Change]:
        """The trail, newest first, from before that number on."""
        with self._file.reading() as read:
            rows = read and read(
                "SELECT number, at, key, action, image, dataset, source, label, was FROM changes "
                "WHERE number < ? ORDER BY number DESC LIMIT ?",
                2**62 if before is None else before,
                limit,
            )
            return [Change(*row) for row in rows or ()]

    def answered(self, key: str, request: Request) -> str | None:
        """The answer that a repeated request got the first time; None where it is the first.

        Raises:
            RepeatedRequestError: its id was used for something else.
        """
        with self._file.reading() as read:
            rows = read and read("SELECT digest, answer FROM requests WHERE key = ? AND request = ?", key, request.id)
            return _same(rows[0], request) if rows else None

    def add(
        self,
        label: str,
        images: Sequence[NewImage],
        key: str,
        *,
        known: Sequence[str] = (),
        most: int | None = None,
        request: Request | None = None,
        answer: Callable[[Addition], str] = lambda kept: "",
    ) -> AddResult:
        """Keep images under a label; all of them or none.

        ``known`` are the classes that the generation that answers has of its own, ``most`` is how many images may be
        kept in all. ``answer`` makes what a repeated request is answered.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
            AddedLimitError: there would be more than ``most``.
            RepeatedRequestError: the request's id was used for something else.
        """
        label = check_label(label, known)
        with self._file.changing() as run:
            if request is not None:
                seen = run("SELECT digest, answer FROM requests WHERE key = ? AND request = ?", key, request.id)
                if (first := seen.fetchone()) is not None:
                    return AddResult(_same(first, request), is_repeated=True)
            if most is not None:
                kept = run("SELECT images FROM kept").fetchone()[0]
                if kept + len(images) > most:
                    raise AddedLimitError(kept, most)
            label, is_noted = _like_another(run, label, known)
            is_new = label not in known and not _is_used(run, label)
            numbers, change = [], 0
            for image in images:
                number = run(
                    "INSERT INTO images (label, name, content, thumbnail, change) VALUES (?, ?, ?, ?, 0)",
                    *(label, image.name, image.content, image.thumbnail),
                ).lastrowid
                assert number is not None
                change = note_change(run, key, "taught", image=number, source=f"{SOURCE}{number}", label=label)
                run("UPDATE images SET change = ? WHERE number = ?", change, number)
                for (encoder, mirrored), made in image.keys.items():
                    _keep_key(run, number, encoder, mirrored, made)
                numbers.append(number)
            if not is_noted:
                _note_label(run, label, change)
            run("UPDATE kept SET images = images + ?", len(images))
            made_answer = answer(Addition(label, is_new, numbers, change))
            if request is not None:
                run("INSERT INTO requests VALUES (?, ?, ?, ?)", key, request.id, request.digest, made_answer)
                run("DELETE FROM requests WHERE rowid <= (SELECT max(rowid) FROM requests) - ?", REMEMBERED_REQUESTS)
            return AddResult(made_answer, is_repeated=False)

    def keep_keys(self, encoder: str, keys: Mapping[tuple[int, bool], Floats], wait: float = BUSY_SECONDS) -> None:
        """Keep the keys that an encoder made of taught images, by number and mirrored; an image has each once."""
        with self._file.changing(wait) as run:
            for (number, mirrored), key in keys.items():
                _keep_key(run, number, encoder, mirrored, key)

    def keep_thumbnail(self, number: int, png: bytes) -> None:
        """Keep a small PNG of a taught image, unless that was removed meanwhile."""
        with self._file.changing() as run:
            run("UPDATE images SET thumbnail = ? WHERE number = ? AND label IS NOT NULL", png, number)

    def correct_image(self, number: int, label: str | None, key: str, known: Sequence[str] = ()) -> str | None:
        """Give a taught image another label, or (None) remove it; its label until now, None where there is no image.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
        """
        if label is not None:
            label = check_label(label, known)
        with self._file.changing() as run:
            row = run("SELECT label FROM images WHERE number = ?", number).fetchone()
            if row is None or row[0] is None:
                return None
            was: str = row[0]

            def write(label: str | None) -> int:
                action: Action = "removed" if label is None else "relabelled"
                change = note_change(run, key, action, image=number, source=f"{SOURCE}{number}", label=label, was=was)
                run("UPDATE images SET label = ?, change = ? WHERE number = ?", label, change, number)
                if label is None:
                    run("UPDATE images SET content = NULL, thumbnail = NULL WHERE number = ?", number)
                    run("DELETE FROM keys WHERE image = ?", number)
                    run("UPDATE kept SET images = images - 1")
                return change

            _correct(run, label, was, known, write)
            return was

    def correct(
        self,
        dataset: str,
        source: str,
        label: str | None,
        key: str,
        *,
        own: str,
        known: Sequence[str] = (),
        even_removed: bool = False,
    ) -> str | None:
        """Give an image of a dataset another label, or (None) remove it; its label until now, None where it is removed.

        ``own`` is the label that it has by itself. One that is removed stays so, unless ``even_removed``.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
        """
        if label is not None:
            label = check_label(label, known)
        with self._file.changing() as run:
            decided = run("SELECT label FROM corrections WHERE dataset = ? AND source = ?", dataset, source).fetchone()
            was: str | None = own if decided is None else decided[0]
            if was is None and not even_removed:
                return None

            def write(label: str | None) -> int:
                action: Action = "removed" if label is None else "relabelled"
                change = note_change(run, key, action, dataset=dataset, source=source, label=label, was=was)
                run("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?)", dataset, source, label, change)
                return change

            _correct(run, label, was, known, write)
            return was

    def _of_image(self, column: Literal["content", "thumbnail"], number: int) -> Any:
        with self._file.reading() as read:
            rows = read and read(f"SELECT {column} FROM images WHERE number = ?", number)
            return rows[0][0] if rows else None


def _by_copy(rows: Iterable[tuple[int, int, bytes]]) -> dict[tuple[int, bool], Floats]:
    return {(image, bool(mirrored)): np.frombuffer(key, "<f4") for image, mirrored, key in rows}


def _same(first: tuple[bytes, str], request: Request) -> str:
    if first[0] != request.digest:
        raise RepeatedRequestError
    return first[1]


def _correct(
    run: Run, label: str | None, was: str | None, known: Sequence[str], write: Callable[[str | None], int]
) -> None:
    """Write a correction, unless it changes nothing."""
    is_noted = True
    if label is not None:
        label, is_noted = _like_another(run, label, known)
    if label == was:
        return
    change = write(label)
    if label is not None and not is_noted:
        _note_label(run, label, change)


def _like_another(run: Run, label: str, known: Sequence[str]) -> tuple[str, bool]:
    """The label as it is kept, and whether that needs no noting.

    Raises:
        LabelTakenError: it would be taken for one that was given before, and is in use.
    """
    if label in known:
        return label, True
    noted = run("SELECT label FROM labels WHERE folded = ?", fold(label)).fetchone()
    if noted is None:
        return label, False
    if noted[0] == label:
        return label, True
    return (check_label(label, noted), True) if _is_used(run, noted[0]) else (label, False)


def _is_used(run: Run, label: str) -> bool:
    used = "SELECT 1 FROM images WHERE label = ? UNION ALL SELECT 1 FROM corrections WHERE label = ? LIMIT 1"
    return run(used, label, label).fetchone() is not None


def _note_label(run: Run, label: str, change: int) -> None:
    """Keep a label that is new; it takes the place of one like it, which nothing has any more."""
    run(
        "INSERT INTO labels (label, folded, change) VALUES (?, ?, ?) "
        "ON CONFLICT (folded) DO UPDATE SET label = excluded.label, change = excluded.change",
        *(label, fold(label), change),
    )


def _keep_key(run: Run, number: int, encoder: str, mirrored: bool, key: Floats) -> None:
    # Not for an image that was removed meanwhile.
    run(
        "INSERT OR IGNORE INTO keys SELECT number, ?, ?, ? FROM images WHERE number = ? AND label IS NOT NULL",
        encoder,
        int(mirrored),
        np.ascontiguousarray(key, "<f4").tobytes(),
        number,
    )
