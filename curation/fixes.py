"""Decisions about suspects that a person wrote into a file that ``audit`` made, brought into a root's journal.

A row is an image: ``source`` and ``given`` as the audit wrote them, and ``decision``, which is one of

    right      the label is right as it is: nobody is asked about it again
    relabel    it shows what ``label`` says, or what was suggested where that is empty
    remove     it is left out

or empty: not decided. Everything is checked before anything is written. An image that has another label by now than the
one the row was written for is left as it is, and named: somebody else has decided since. What a row asks for and has
come true already is counted, so that a file can be taken in twice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from secondlook.curation.audit import DECISION, LABEL
from secondlook.indexer.datasets.left_out import check_ending
from secondlook.model.bundles.entry_table import Entries
from secondlook.model.bundles.files import ENTRIES, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import ParameterError
from secondlook.model.journal import Journal, number_in
from secondlook.model.labels import check_label

Decision = Literal["right", "relabel", "remove"]


class Fix(NamedTuple):
    """One row that was decided."""

    place: str
    """Where it stands, for people."""
    source: str
    given: str
    decision: Decision
    label: str | None
    """What the image shows then; None = it is removed."""


@dataclass(frozen=True)
class Applied:
    """What a file's decisions came to."""

    generation: str
    confirmed: int
    relabelled: int
    removed: int
    already: int
    """Had come true before."""
    undecided: int
    changed_since: tuple[str, ...]
    """Images that have another label by now than the file says: sentences."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "changed_since": list(self.changed_since)}


def read_fixes(path: Path) -> tuple[list[Fix], int]:
    """The rows of a .csv or .json file that are decided, and how many are not.

    Raises:
        ParameterError: the file, or a row of it, is not what it should be; names the row.
    """
    check_ending(path)
    fixes: dict[str, Fix] = {}
    undecided = 0
    for place, row in _rows(path):
        # A name may begin or end with a space: only what people type is stripped.
        text = {name: _text(row.get(name)) for name in ("source", "given", "suggested", DECISION, LABEL)}
        decision, named = text[DECISION].strip().casefold(), text[LABEL].strip()
        if not decision:
            if named:
                raise ParameterError(f"{place}: it has a {LABEL} and no {DECISION}: write relabel")
            undecided += 1
            continue
        if not text["source"] or not text["given"]:
            raise ParameterError(f"{place}: it has no source or no given label: give a file that `audit --out` wrote")
        if decision not in get_args(Decision):
            raise ParameterError(
                f"{place}: {DECISION} is {text[DECISION].strip()!r}: write {', '.join(get_args(Decision))}"
            )
        if decision != "relabel" and named:
            raise ParameterError(f"{place}: it has a {LABEL}, and is to be {decision}: write relabel, or leave it out")
        label = text["given"] if decision == "right" else None
        if decision == "relabel":
            label = named or text["suggested"]
            if not label:
                raise ParameterError(f"{place}: it does not say what the image shows: fill in {LABEL}")
        fix = Fix(place, text["source"], text["given"], cast(Decision, decision), label)
        before = fixes.setdefault(fix.source, fix)
        if before[1:] != fix[1:]:
            raise ParameterError(f"{place}: {fix.source} is decided otherwise in {before.place}: decide it once")
    return list(fixes.values()), undecided


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row and where it stands."""
    wanted = "give a file that `secondlook audit --out FOLDER` wrote"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ParameterError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path.name} is not text in UTF-8: save it so, or {wanted}") from error
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ParameterError(f"{path.name} is not JSON: {wanted}") from error
        match content:
            case {"suspects": {"listed": list(rows)}} | list(rows):
                pass
            case _:
                raise ParameterError(f"{path.name} has no list of suspects: {wanted}")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise ParameterError(f"{path.name}, item {number}: it is no object: {wanted}")
            yield f"{path.name}, item {number}", row
        return
    # A spreadsheet may have written semicolons where a comma is part of numbers.
    header = text.partition("\n")[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if not {"source", "given", DECISION} <= set(lines.fieldnames or ()):
            raise ParameterError(f"{path.name} has no columns source, given and {DECISION}: {wanted}")
        for row in lines:
            yield f"{path.name}, line {lines.line_num}", row
    except csv.Error as error:
        raise ParameterError(f"{path.name}, line {lines.line_num}: {error}: {wanted}") from error


def apply_fixes(root: Path, path: Path, key: str, generation: str | None = None) -> Applied:
    """Bring a file's decisions into a root's journal; servers that run on the root know of them at once.

    ``key`` is whose doing it is, for the trail. Sources are those of ``generation`` (None = the active one).

    Raises:
        ParameterError: as ``read_fixes``, or a row names an image that is not there or a label that nobody can give.
        LabelTakenError: a label would be taken for a known one.
        BundleError, JournalError: the root cannot be read, or what is decided cannot be kept.
    """
    fixes, undecided = read_fixes(path)
    generation = generation or active_generation(root)
    manifest, journal = read_manifest(root, generation), Journal(root)
    now, own = _labels(journal, Entries(root / generation / ENTRIES), manifest.dataset.name, manifest.classes, fixes)
    known = [*manifest.classes]
    labels = {}
    for fix in fixes:
        if fix.source not in now:
            raise ParameterError(f"{fix.place}: there is no image {fix.source} in generation {generation}")
        if fix.decision == "relabel" and fix.label is not None:
            label = labels[fix.source] = check_label(fix.label, known)
            if label not in known:
                known.append(label)
    counts = dict.fromkeys((*get_args(Decision), "already"), 0)
    changed_since = []
    confirmed = journal.confirmations.of(manifest.dataset.name)
    for fix in fixes:
        has, wanted = now[fix.source], labels.get(fix.source, fix.label)
        if has == wanted and (fix.decision != "right" or confirmed.get(fix.source) == has):
            counts["already"] += 1
        elif has == fix.given and _apply(journal, manifest.dataset.name, manifest.classes, fix, wanted, own, key):
            counts[fix.decision] += 1
        else:
            said = "is removed" if has is None else f"is {has}"
            changed_since.append(f"{fix.place}: {fix.source} {said} by now, and was {fix.given} when it was audited")
    return Applied(
        generation,
        counts["right"],
        counts["relabel"],
        counts["remove"],
        counts["already"],
        undecided,
        tuple(changed_since),
    )


def _labels(
    journal: Journal, entries: Entries, dataset: str, classes: tuple[str, ...], fixes: list[Fix]
) -> tuple[dict[str, str | None], dict[str, str]]:
    """What images show now (None = removed), and what those of the dataset show by themselves; by source."""
    state = journal.since(0)
    taught = {image.number: image.label for image in state.images}
    own = {entry.source: classes[entry.value] for entry in entries.of_sources({fix.source for fix in fixes})}
    now: dict[str, str | None] = {**own}
    for correction in state.corrections:
        if correction.dataset == dataset and correction.source in own:
            now[correction.source] = correction.label
    for fix in fixes:
        if (number := number_in(fix.source)) is not None and number in taught:
            now[fix.source] = taught[number]
    return now, own


def _apply(
    journal: Journal,
    dataset: str,
    classes: tuple[str, ...],
    fix: Fix,
    label: str | None,
    own: Mapping[str, str],
    key: str,
) -> bool:
    """Write one decision; whether it was still about the label that was given."""
    number = number_in(fix.source)
    if fix.decision == "right":
        of = own.get(fix.source)
        return journal.confirmations.add(dataset, fix.source, fix.given, key, own=of) == fix.given
    if number is not None:
        return journal.correct_image(number, label, key, classes) is not None
    return journal.correct(dataset, fix.source, label, key, own=own[fix.source], known=classes) is not None
