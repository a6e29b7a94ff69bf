"""What was taught to a root, as files that people and other programs can read: written out, and taken in elsewhere.

::

    FOLDER/taught.jsonl       a JSON object a line: {"image": "images/7.png", "sha256": ..., "label": ..., "name": ...},
                              with "confirmed": true where somebody said that the label is right;
                              {"dataset": ..., "source": ..., "label": ... or null where it was removed},
                              or {"dataset": ..., "source": ..., "confirmed": the label}
    FOLDER/images/7.png       the images as they were sent
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from secondlook.indexer.progress import Progress, silent
from secondlook.model.errors import ImageError, JournalError, ParameterError
from secondlook.model.images import SMALL, Limits, decode, sniff
from secondlook.model.journal import SOURCE, TAUGHT, Addition, Journal, NewImage
from secondlook.model.labels import check_label

LINES, IMAGES = "taught.jsonl", "images"
AT_ONCE = 100
"""Images taken in by one change."""


class Moved(NamedTuple):
    """What was written out or taken in."""

    images: int
    decisions: int
    known: int = 0
    """Images that were there already."""


def export_added(journal: Journal, folder: Path, progress: Progress = silent) -> Moved:
    """Write all that is taught now into an empty folder, or one that is not there yet.

    Raises:
        ParameterError: the folder is not empty. JournalError: the journal cannot be read.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ParameterError(f"{folder} is not empty: give a new folder")
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    state = journal.since(0)
    images = [image for image in state.images if image.label is not None]
    confirmed = {(one.dataset, one.source): one.label for one in journal.confirmations.all()}
    with (folder / LINES).open("w", encoding="utf-8") as lines:
        written = 0
        for done, (number, _) in enumerate(images, start=1):
            image = journal.image(number)
            if image is None:  # removed meanwhile
                continue
            label, name, content = image
            path = f"{IMAGES}/{number}{_suffix(content)}"
            (folder / path).write_bytes(content)
            line: dict[str, Any] = {
                "image": path,
                "sha256": sha256(content).hexdigest(),
                "label": label,
                "name": name,
            }
            if confirmed.pop((TAUGHT, f"{SOURCE}{number}"), None) == label:
                line["confirmed"] = True
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            written += 1
            progress("export", done, len(images))
        for correction in state.corrections:
            lines.write(json.dumps(correction._asdict(), ensure_ascii=False) + "\n")
        of_datasets = [(*of, label) for of, label in confirmed.items() if of[0] != TAUGHT]
        for dataset, source, label in of_datasets:
            line = {"dataset": dataset, "source": source, "confirmed": label}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    return Moved(written, len(state.corrections) + len(of_datasets))


def import_added(
    journal: Journal,
    folder: Path,
    key: str,
    limits: Limits,
    known_classes: Sequence[str] = (),
    progress: Progress = silent,
) -> Moved:
    """Teach what ``export_added`` wrote; an image that is taught under the same label already is left as it is.

    Everything is checked before anything is taught, labels against ``known_classes`` too. ``key`` is whose doing it
    is, for the trail.

    Raises:
        ParameterError: a line, or an image, is not what it should be; names the line.
        LabelTakenError: a label would be taken for a known one. JournalError: the journal cannot be written.
    """
    lines = list(_lines(folder))
    there = {
        (image.label, sha256(journal.content(image.number) or b"").hexdigest()): image.number
        for image in journal.since(0).images
        if image.label is not None
    }
    new: dict[str, dict[str, NewImage]] = {}
    decisions: list[tuple[str, str, str | None]] = []
    confirmed: list[tuple[str, str, str]] = []
    confirmed_images: list[tuple[str, str]] = []
    known, labels = 0, list(known_classes)

    def taken(label: str) -> str:
        """The label as it is kept, unless it would be taken for a known one or for one of another line."""
        label = check_label(label, labels)
        if label not in labels:
            labels.append(label)
        return label

    for number, line in lines:
        match line:
            case {"image": str(path), "label": str(label)}:
                label = taken(label)
                content = _image(folder, path, line, number, limits)
                digest = sha256(content).hexdigest()
                if (label, digest) in there or digest in new.get(label, ()):
                    known += 1
                else:
                    new.setdefault(label, {})[digest] = NewImage(str(line.get("name", "")), content)
                if line.get("confirmed") is True:
                    confirmed_images.append((label, digest))
            case {"dataset": str(dataset), "source": str(source), "confirmed": str(label)}:
                confirmed.append((dataset, source, taken(label)))
            case {"dataset": str(dataset), "source": str(source), "label": str() | None as label}:
                decisions.append((dataset, source, label if label is None else taken(label)))
            case _:
                raise ParameterError(f"{LINES}, line {number}: it is neither an image nor a decision about one")
    total, done = sum(map(len, new.values())), 0
    for label, images in new.items():
        for start in range(0, len(images), AT_ONCE):
            some = dict(list(images.items())[start : start + AT_ONCE])
            taught = journal.add(label, list(some.values()), key, known=known_classes, answer=_numbers)
            there.update(
                ((label, digest), number) for digest, number in zip(some, json.loads(taught.answer), strict=True)
            )
            done += len(some)
            progress("import", done, total)
    for dataset, source, decided in decisions:
        journal.correct(dataset, source, decided, key, own="", known=known_classes, even_removed=True)
    for label, digest in confirmed_images:
        journal.confirmations.add(TAUGHT, f"{SOURCE}{there[label, digest]}", label, key, own=None)
    for dataset, source, label in confirmed:
        journal.confirmations.add(dataset, source, label, key, own=label)
    return Moved(total, len(decisions) + len(confirmed), known)


def _numbers(kept: Addition) -> str:
    return json.dumps(kept.numbers)


def _lines(folder: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = (folder / LINES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{folder} has no {LINES} that can be read: give what export wrote") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ParameterError(f"{LINES}, line {number}: it is not JSON") from error


def _image(folder: Path, name: str, line: dict[str, Any], number: int, limits: Limits) -> bytes:
    """An image's bytes, once they were seen to be one."""
    path = PurePosixPath(name)
    # Nothing outside of the folder, whatever a line says.
    if path.is_absolute() or ".." in path.parts or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ParameterError(f"{LINES}, line {number}: its image lies outside of the folder")
    try:
        content = (folder / path).read_bytes()
        decode(content, SMALL, limits)
    except OSError as error:
        raise ParameterError(f"{LINES}, line {number}: {name} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise ParameterError(f"{LINES}, line {number}: {name}: {error}") from error
    if "sha256" in line and line["sha256"] != sha256(content).hexdigest():
        raise ParameterError(f"{LINES}, line {number}: {name} is damaged (its SHA-256 differs)")
    return content


def _suffix(content: bytes) -> str:
    """What a file of that format is called."""
    format = sniff(content[:64])
    if format is None:
        raise JournalError("a taught image is of no format that is read")
    return f".{format.lower().replace('jpeg', 'jpg')}"
