"""What ``start`` tells a person of their photos: how well each class is told, what was left out, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from secondlook.evaluation.statistics.intervals import Interval, wilson
from secondlook.indexer.datasets.left_out import FAULTS, LeftOut, printable, shortened
from secondlook.indexer.photos import Photos
from secondlook.indexer.results import Table, console
from secondlook.model.bundles.files import VALUES
from secondlook.model.journal import Journal
from secondlook.model.manifest import ClassFigures, Manifest

FEW, GOOD = 10, 20
"""Photos of a class: with fewer it needs more; with so many it is well off."""
LISTED = 20
"""Classes shown, of many; the worst."""
ADVICE = 6
"""Sentences on what to do next."""
CONFUSED = 3
"""Photos of one class that are taken for another, both ways together, from which on that is said."""
NAMED = 3
"""Files named in a sentence."""


@dataclass(frozen=True)
class ClassReport:
    """One class."""

    label: str
    photos: int
    """Cached, with what was taught before they were cached."""
    figures: ClassFigures | None
    """How its photos were answered when they took no part in the answer; None where that was not tried."""

    @property
    def asked(self) -> int:
        """How many were asked about."""
        return self.figures.images if self.figures is not None else 0

    @property
    def answered(self) -> int:
        """How many of these were answered right."""
        return self.figures.right if self.figures is not None else 0

    @property
    def confused(self) -> tuple[tuple[str, int], ...]:
        """What the others were taken for, and how often, most first."""
        return self.figures.confused if self.figures is not None else ()

    @property
    def right(self) -> Interval | None:
        """The share that was answered right."""
        return wilson(self.answered, self.asked) if self.asked else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "label": self.label,
            "photos": self.photos,
            "asked": self.asked,
            "right": self.answered,
            "right_percent": _percent(self.right),
            "confused": dict(self.confused),
        }


@dataclass(frozen=True)
class PhotosReport:
    """All of it."""

    photos: Photos
    root: Path
    manifest: Manifest
    left_out: LeftOut
    classes: tuple[ClassReport, ...]
    taught: int
    """Images that were taught to the servers of the root, and are no photos of the folder."""

    @classmethod
    def of(cls, photos: Photos, root: Path, manifest: Manifest) -> PhotosReport:
        """Of a bundle; what was left out is as its photos were read, now or when it was made.

        Raises:
            JournalError: what was taught cannot be read.
        """
        values = np.load(root / manifest.generation / VALUES, mmap_mode="r", allow_pickle=False)
        counts = np.bincount(values, minlength=len(manifest.classes)).tolist()
        found = {one.label: one for one in (manifest.fit.classes if manifest.fit else ())}
        classes = tuple(
            ClassReport(label, count, found.get(label)) for label, count in zip(manifest.classes, counts, strict=True)
        )
        taught = sum(image.label is not None for image in Journal(root).since(0).images)
        return cls(photos, root, manifest, photos.dataset.left_out, classes, taught)

    @property
    def asked(self) -> int:
        """How many photos of all classes were asked about."""
        return sum(one.asked for one in self.classes)

    @property
    def answered(self) -> int:
        """How many of these were answered right."""
        return sum(one.answered for one in self.classes)

    @property
    def right(self) -> Interval | None:
        """The share that was answered right."""
        return wilson(self.answered, self.asked) if self.asked else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        of = self.manifest.dataset
        return {
            "photos": printable(str(self.photos.folder)),
            "bundles": printable(str(self.root)),
            "generation": self.manifest.generation,
            "network": self.manifest.network.name,
            "images": of.images,
            "right_percent": _percent(self.right),
            "classes": [one.as_dict() for one in self.classes],
            "taught": self.taught,
            "left_out": of.left_out | self.left_out.counts(),
            "left_out_files": [left._asdict() for left in self.left_out],
            "without_photos": list(self.photos.empty),
            "copies": of.duplicates,
            "in_two_classes": [list(pair) for pair in of.in_two_classes],
            "in_two_classes_count": of.in_two_classes_count,
            "next": list(self.advice()),
        }

    def table(self) -> Table:
        """The classes; of many, the worst."""
        shown = self.classes if len(self.classes) <= LISTED else sorted(self.classes, key=_badness)[:LISTED]
        rows = [
            (
                one.label,
                f"{one.photos:,}",
                _of(one.asked, one.answered),
                _share(one.right),
                ", ".join(f"{label} {count}" for label, count in one.confused[:NAMED]),
            )
            for one in shown
        ]
        photos = sum(one.photos for one in self.classes)
        rows.append(("all", f"{photos:,}", _of(self.asked, self.answered), _share(self.right), ""))
        count = len(self.classes)
        return Table(
            f"{printable(self.photos.folder.name)}: {self.manifest.dataset.images:,} photos of {count:,} classes",
            ("class", "photos", "answered right", "% (95 % interval)", "taken for"),
            tuple(rows),
            f"The worst {LISTED} of {count:,} classes; --json has all." if count > LISTED else "",
        )

    def notes(self) -> Iterator[str]:
        """What was left out and why, copies, photos in two classes, and what looked at them."""
        of = self.manifest.dataset
        if len(self.left_out):
            yield f"left out: {self.left_out.said()}"
        elif of.left_out:
            yield f"left out: {', '.join(f'{count:,} {reason}' for reason, count in of.left_out.items())}"
        if self.photos.empty:
            yield f"left out: {_few(self.photos.empty)}, without a photo that can be read"
        if of.duplicates:
            shows = "photo shows" if of.duplicates == 1 else "photos show"
            yield f"copies: {of.duplicates:,} {shows} a picture that another one shows too; that does no harm"
        if of.in_two_classes:
            pairs = "; ".join(f"{shortened(one)} and {shortened(other)}" for one, other in of.in_two_classes[:NAMED])
            more = "; ..." if of.in_two_classes_count > NAMED else ""
            yield f"one picture in two classes: {pairs}{more}"
        yield f"network: {self.manifest.network.name}, {self.manifest.preprocess.geometry}, head: {self.manifest.head}"
        if self.taught:
            yield f"taught besides: {self.taught:,} images, which stay"

    def advice(self) -> Iterator[str]:
        """What to do next, in sentences, the most useful first."""
        found = [*self._faults(), *self._too_few(), *self._confusions(), *self._weak()]
        yield from found[:ADVICE]
        if not found:
            yield "nothing stands out: ask about a new photo, and where an answer is wrong, say so on the page"

    def _faults(self) -> Iterator[str]:
        of = self.manifest.dataset
        if of.in_two_classes:
            one, other = of.in_two_classes[0]
            yield (
                f"{shortened(one)} and {shortened(other)} are one picture in two classes: remove it from the wrong one"
                + (f"; so it is {of.in_two_classes_count - 1:,} times more" if of.in_two_classes_count > 1 else "")
            )
        if of.duplicates and of.duplicates + 1 >= of.images:
            yield "all photos show the same picture: put different photos into the folders"
        if faults := sum(self.left_out.counts().get(reason, 0) for reason in FAULTS):
            yield f"{'one photo' if faults == 1 else f'{faults:,} photos'} could not be read: replace or remove them"

    def _too_few(self) -> Iterator[str]:
        few = sorted((one for one in self.classes if one.photos < FEW), key=lambda one: one.photos)
        for one in few[: NAMED - 1] if len(few) > NAMED else few:
            has = "one photo only" if one.photos == 1 else f"{one.photos} photos only"
            yield f"{one.label} needs more photos: it has {has}, {GOOD} are a good start"
        if len(few) > NAMED:
            yield f"{len(few) - NAMED + 1:,} more classes have fewer than {FEW} photos"

    def _confusions(self) -> Iterator[str]:
        taken = {(one.label, other): count for one in self.classes for other, count in one.confused}
        asked = {one.label: one.asked for one in self.classes}
        pairs = {(min(pair), max(pair)) for pair in taken}
        counted = sorted(((taken.get((a, b), 0) + taken.get((b, a), 0), a, b) for a, b in pairs), reverse=True)
        for count, a, b in counted[:NAMED]:
            of = asked.get(a, 0) + asked.get(b, 0)
            if count >= CONFUSED and count * 20 >= of:
                yield (
                    f"{a} and {b} are confused, {count} times in {of} photos: see that none lies in the wrong folder, "
                    "and add photos that show how they differ"
                )

    def _weak(self) -> Iterator[str]:
        """Classes that are told clearly worse than all are."""
        if self.right is None:
            return
        weak = [one for one in self.classes if one.right is not None and one.right.high < self.right.value]
        for one in sorted(weak, key=_badness)[:NAMED]:
            if one.photos >= FEW:
                assert one.right is not None
                yield f"{one.label} needs more photos, or more varied ones: {_share(one.right)} % of them were told"

    def _how(self) -> str:
        source, on = self.manifest.parameters_from, self.manifest.holdout
        if self.right is None:
            return (
                "how often they are answered right is not known, as the network may have been trained on them: keep "
                f"photos that it never saw in a folder of each class below {printable(self.photos.folder.name)}/val"
            )
        if source in ("cross-validation", "leave-one-out"):
            return "answered right: each photo, by an index that it took no part in"
        return f"answered right: of photos that took no part in the index ({on.name})" if on is not None else ""

    def show(self) -> None:
        """Print it for a person."""
        console().print(self.table().rich())
        click.echo(self._how())
        for note in self.notes():
            click.echo(note)
        click.echo("what to do next:")
        for sentence in self.advice():
            click.echo(f"- {sentence}")


def _badness(one: ClassReport) -> tuple[float, int]:
    return (one.right.value if one.right is not None else -1.0, one.photos)


def _of(asked: int, right: int) -> str:
    return f"{right:,} of {asked:,}" if asked else "not asked"


def _share(right: Interval | None) -> str:
    return "" if right is None else f"{100 * right.value:.0f} ({100 * right.low:.0f} to {100 * right.high:.0f})"


def _percent(right: Interval | None) -> list[float] | None:
    """The share in percent, and its interval's ends."""
    return None if right is None else [round(100 * one, 2) for one in right]


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
