"""What ``start`` tells a person of their photos: how well each class is told, what was left out, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from secondlook.curation.class_report import NAMED, BundleReport, percent, share_text
from secondlook.indexer.datasets.left_out import LeftOut, printable, shortened
from secondlook.indexer.photos import Photos
from secondlook.indexer.results import Table, console
from secondlook.model.bundles.files import VALUES
from secondlook.model.journal import Journal
from secondlook.model.manifest import Manifest

LISTED = 20
"""Classes shown, of many; the worst."""


@dataclass(frozen=True)
class PhotosReport:
    """All of it."""

    photos: Photos
    root: Path
    left_out: LeftOut
    of_bundle: BundleReport
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
        left_out = photos.dataset.left_out
        of_bundle = BundleReport.of(manifest, dict(zip(manifest.classes, counts, strict=True)), left_out.counts())
        taught = sum(image.label is not None for image in Journal(root).since(0).images)
        return cls(photos, root, left_out, of_bundle, taught)

    @property
    def manifest(self) -> Manifest:
        """The bundle's."""
        return self.of_bundle.manifest

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        of = self.manifest.dataset
        return {
            "photos": printable(str(self.photos.folder)),
            "bundles": printable(str(self.root)),
            "generation": self.manifest.generation,
            "network": self.manifest.network.name,
            "images": of.images,
            "right_percent": percent(self.of_bundle.right),
            "classes": [one.as_dict() for one in self.of_bundle.classes],
            "taught": self.taught,
            "left_out": of.left_out | self.left_out.counts(),
            "left_out_files": [left._asdict() for left in self.left_out],
            "without_photos": list(self.photos.empty),
            "copies": of.duplicates,
            "in_two_classes": [list(pair) for pair in of.in_two_classes],
            "in_two_classes_count": of.in_two_classes_count,
            "next": list(self.of_bundle.advice()),
        }

    def table(self) -> Table:
        """The classes; of many, the worst."""
        of = self.of_bundle
        rows = [
            (
                one.label,
                f"{one.photos:,}",
                _of(one.asked, one.answered),
                share_text(one.right),
                ", ".join(f"{label} {count}" for label, count in one.confused[:NAMED]),
            )
            for one in of.worst(LISTED)
        ]
        photos = sum(one.photos for one in of.classes)
        rows.append(("all", f"{photos:,}", _of(of.asked, of.answered), share_text(of.right), ""))
        count = len(of.classes)
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

    def show(self) -> None:
        """Print it for a person."""
        console().print(self.table().rich())
        click.echo(self.of_bundle.how())
        for note in self.notes():
            click.echo(note)
        click.echo("what to do next:")
        for sentence in self.of_bundle.advice():
            click.echo(f"- {sentence}")


def _of(asked: int, right: int) -> str:
    return f"{right:,} of {asked:,}" if asked else "not asked"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
