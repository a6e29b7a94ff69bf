"""What ``start`` without photos tells a person: what was taught so far, and what to do next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from secondlook.indexer.datasets.left_out import printable
from secondlook.model.journal import Journal
from secondlook.model.manifest import Manifest

LISTED = 12
"""Classes that are named, those with the most images."""


@dataclass(frozen=True)
class TaughtReport:
    """What a root was taught."""

    root: Path
    manifest: Manifest
    taught: dict[str, int]
    """Images by label, most first."""

    @classmethod
    def of(cls, root: Path, manifest: Manifest) -> TaughtReport:
        """Of a root, whose active bundle's manifest this is.

        Raises:
            JournalError: what was taught cannot be read.
        """
        labels = Counter(image.label for image in Journal(root).since(0).images if image.label is not None)
        return cls(root, manifest, dict(labels.most_common()))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bundles": printable(str(self.root)),
            "generation": self.manifest.generation,
            "network": self.manifest.network.name,
            "head": self.manifest.head,
            "images": self.manifest.dataset.images,
            "classes": [{"label": label, "photos": count} for label, count in self.taught.items()],
            "taught": sum(self.taught.values()),
            "next": [self.advice()],
        }

    def advice(self) -> str:
        """What to do next, in a sentence."""
        of = self.manifest.dataset
        if not self.manifest.is_taught_alone:
            return f"it knows {of.images:,} images of {of.name}: ask about a new one; where an answer is wrong, say so"
        if not self.taught:
            return "it knows nothing yet: choose photos of one thing on the page, and say what they show; then the next"
        if len(self.taught) == 1:
            return f"it knows {next(iter(self.taught))} alone: teach a second class, so that it can tell them apart"
        return "ask about a new photo on the page; where an answer is wrong, say so; rebuild there when much was taught"

    def show(self) -> None:
        """Print it for a person."""
        if self.taught:
            named = [f"{label} {count:,}" for label, count in list(self.taught.items())[:LISTED]]
            more = f" and {len(self.taught) - LISTED:,} more" if len(self.taught) > LISTED else ""
            images, classes = sum(self.taught.values()), len(self.taught)
            shown = f"{images:,} image{'s' if images > 1 else ''} of {classes:,} class{'es' if classes > 1 else ''}"
            click.echo(f"taught so far: {shown}: {', '.join(named)}{more}")
        click.echo(f"network: {self.manifest.network.name}, head: {self.manifest.head}")
        click.echo(self.advice())
