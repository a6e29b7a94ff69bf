"""How well each class of a bundle is told, and what to do next, in words: what ``start`` and the page report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from secondlook.indexer.datasets.left_out import FAULTS, shortened
from secondlook.model.intervals import Interval, wilson
from secondlook.model.manifest import ClassFigures, Manifest

FEW, GOOD = 10, 20
"""Photos of a class: with fewer it needs more; with so many it is well off."""
ADVICE = 6
"""Sentences on what to do next."""
CONFUSED = 3
"""Photos of one class that are taken for another, both ways together, from which on that is said."""
NAMED = 3
"""Files or classes named in a sentence."""


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
            "right_percent": percent(self.right),
            "confused": dict(self.confused),
        }


@dataclass(frozen=True)
class BundleReport:
    """All classes of a bundle, and those that it was taught since."""

    manifest: Manifest
    classes: tuple[ClassReport, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Images that the bundle was made without, by reason."""

    @classmethod
    def of(
        cls, manifest: Manifest, counts: Mapping[str, int], left_out: Mapping[str, int] | None = None
    ) -> BundleReport:
        """Of a bundle with so many entries of each class; more may have been left out than it says."""
        found = {one.label: one for one in (manifest.fit.classes if manifest.fit else ())}
        classes = tuple(ClassReport(label, count, found.get(label)) for label, count in counts.items())
        return cls(manifest, classes, {**manifest.dataset.left_out, **(left_out or {})})

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

    def worst(self, most: int) -> list[ClassReport]:
        """The classes; of many, those that are told worst."""
        return [*self.classes] if len(self.classes) <= most else sorted(self.classes, key=_badness)[:most]

    def how(self) -> str:
        """How it is known what was answered right, in a sentence; empty where that needs none."""
        source, on = self.manifest.parameters_from, self.manifest.holdout
        if self.right is None:
            unknown = "how often they are answered right is not known"
            if source == "given":
                return f"{unknown}, as theta, lam and k were given and not fitted"
            if on is not None and on.honest:
                return f"{unknown}, as this bundle is from before that was kept: a rebuild says it"
            return (
                f"{unknown}, as the network may have been trained on them: keep photos that it never saw in a folder "
                "val beside train, with a folder of each class"
            )
        if source in ("cross-validation", "leave-one-out"):
            return "answered right: each photo, by an index that it took no part in"
        return f"answered right: of photos that took no part in the index ({on.name})" if on is not None else ""

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
        if faults := sum(self.left_out.get(reason, 0) for reason in FAULTS):
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
                yield f"{one.label} needs more photos, or more varied ones: {share_text(one.right)} % of them were told"


def _badness(one: ClassReport) -> tuple[float, int]:
    return (one.right.value if one.right is not None else -1.0, one.photos)


def share_text(right: Interval | None) -> str:
    """A share in percent with its interval, as tables have it."""
    return "" if right is None else f"{100 * right.value:.0f} ({100 * right.low:.0f} to {100 * right.high:.0f})"


def percent(right: Interval | None) -> tuple[float, float, float] | None:
    """The share in percent, and its interval's ends."""
    if right is None:
        return None
    value, low, high = (round(100 * one, 2) for one in right)
    return value, low, high
