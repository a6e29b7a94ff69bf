"""Which of a network's classes are which of a dataset's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from secondlook.model.cache import Floats
from secondlook.model.errors import NetworkError

Groups = Sequence[Sequence[int]]
"""Of a network's classes: for each class of ours, those that mean it."""


class ClassMatch(NamedTuple):
    """For each class of a dataset, the network's classes that mean it; none where it knows none."""

    groups: tuple[tuple[int, ...], ...]
    how: str
    """``exact``, ``folded`` (case, spaces, underscores and hyphens; one of several names), ``class map``, or ``order``:
    the network's classes have no names, and are as many, so that only images can tell."""

    @property
    def known(self) -> tuple[int, ...]:
        """The dataset's classes that the network knows."""
        return tuple(label for label, group in enumerate(self.groups) if group)

    def log_probabilities(self, logits: Floats) -> Floats:
        """(B,C) logits -> (B,c) float64, of the whole softmax; -inf for a class that the network has not."""
        wide = logits.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        total = np.log(np.exp(wide).sum(axis=1))
        made = np.full((len(wide), len(self.groups)), -np.inf)
        for label, group in enumerate(self.groups):
            if group:
                made[:, label] = np.log(np.maximum(np.exp(wide[:, group]).sum(axis=1), 1e-300)) - total
        return made


def of_groups(logits: Floats, groups: Groups) -> Floats:
    """(B,C) logits -> (B,c) float32, one for each group: log of the sum of exp of its classes' logits."""
    made = np.empty((len(logits), len(groups)), np.float32)
    for place, group in enumerate(groups):
        own = logits[:, list(group)].astype(np.float64)
        largest = own.max(axis=1)
        made[:, place] = largest + np.log(np.exp(own - largest[:, None]).sum(axis=1))
    return made


def match_classes(
    ours: Sequence[str], networks: Sequence[str] | None, class_map: Mapping[str, Sequence[str]] | None = None
) -> ClassMatch | None:
    """Match a dataset's classes to a network's; None where nothing matches, or there is no head.

    Raises:
        NetworkError: the class map names a class that the network, or the dataset, does not have.
    """
    if networks is None:
        return None
    if class_map is not None:
        return _by_map(ours, networks, class_map)
    if tuple(networks) == tuple(map(str, range(len(networks)))) and tuple(ours) != tuple(networks):
        return ClassMatch(tuple((i,) for i in range(len(ours))), "order") if len(ours) == len(networks) else None
    exact = {name: i for i, name in enumerate(networks)}
    if all(name in exact for name in ours):
        return ClassMatch(tuple((exact[name],) for name in ours), "exact")
    folded: dict[str, list[int]] = {}
    for i, name in enumerate(networks):
        for synonym in dict.fromkeys((fold(name), *map(fold, name.split(",")))):
            folded.setdefault(synonym, []).append(i)
    groups = tuple((exact[name],) if name in exact else tuple(folded.get(fold(name), ())[:1]) for name in ours)
    is_exact = all(not group or name in exact for name, group in zip(ours, groups, strict=True))
    return ClassMatch(groups, "exact" if is_exact else "folded") if any(groups) else None


def fold(name: str) -> str:
    """A name without its way of writing."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def read_class_map(path: Path) -> dict[str, list[str]]:
    """Lines of a dataset's class, TAB, the network's class by name or index; further columns are not read.

    Raises:
        NetworkError: there is no such file, or a line without a TAB.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NetworkError(f"{path} cannot be read as a class map: give a text file in UTF-8") from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        ours, tab, rest = line.partition("\t")
        theirs = rest.partition("\t")[0].strip()
        if not tab or not theirs:
            raise NetworkError(
                f"{path.name}, line {number}: write the dataset's class, a TAB, and the network's class (name or index)"
            )
        found.setdefault(ours.strip(), []).append(theirs)
    if not found:
        raise NetworkError(f"{path.name} is empty: write a line for each class: its name, a TAB, the network's class")
    return found


def _by_map(ours: Sequence[str], networks: Sequence[str], class_map: Mapping[str, Sequence[str]]) -> ClassMatch:
    by_name = {name: i for i, name in enumerate(networks)}
    by_fold = {fold(name): i for i, name in enumerate(networks)}

    def index(name: str) -> int:
        found = by_name.get(name, by_fold.get(fold(name)))
        if found is None and name.isdecimal() and int(name) < len(networks):
            found = int(name)
        if found is None:
            near = difflib.get_close_matches(name, networks, 3, 0.4)
            said = f"did you mean {' or '.join(near)}?" if near else f"give one of 0 to {len(networks) - 1}"
            raise NetworkError(f"the class map names {name!r}, which the network does not know: {said}")
        return found

    groups = tuple(tuple(dict.fromkeys(index(name) for name in class_map.get(label, ()))) for label in ours)
    if not any(groups):
        raise NetworkError(
            f"the class map has none of the dataset's classes ({', '.join(list(ours)[:3])}): its first column is theirs"
        )
    return ClassMatch(groups, "class map")
