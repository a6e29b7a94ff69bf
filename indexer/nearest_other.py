"""How near a held-out image ever is to another picture: beyond that, an entry is the same picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from indexer.copies import Looks, copies_of
from model.cache import Floats, Ints
from model.engines import Engine
from model.manifest import SameAs
from model.stores import Neighbors

Images = NDArray[np.uint8]

MOST, AT_ONCE, ENTRIES = 128, 16, 3
"""So many of the holdout's images are looked at, those nearest to an entry first, and so many entries of each."""

SLACK = 0.05
"""By so much a similarity of keys that the store keeps in fewer bits may be too low or too high."""

CLOSEST = 0.9999
"""What is nearer than this is the same picture at any rate: a copy in the holdout may have gone unseen."""


def nearest_other(
    keys: Floats,
    found: Neighbors,
    images: Callable[[Ints], Images],
    entry_images: Callable[[Ints], Images],
    engine: Engine,
) -> SameAs | None:
    """The greatest similarities of the holdout's images, with keys (n,D), to other pictures; None where all are copies.

    ``found`` are their nearest entries as the store has them, (n,m); ``images`` gives pixels (b,H,W,3) of the holdout
    by row, ``entry_images`` those of entries by id. Images that show the same picture as an entry (``indexer.copies``)
    are left out.
    """
    ids, stored = found.ids[:, :ENTRIES], found.similarities[:, :ENTRIES]
    order = np.argsort(-stored[:, 0], kind="stable")[:MOST]
    highest = highest_stored = -1.0
    seen = copies = 0
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        if stored[rows[0], 0] + SLACK < highest:
            break
        there = ids[rows] >= 0
        looks = Looks.of(images(rows))
        pixels = entry_images(ids[rows][there])
        exact = np.full(there.shape, -1.0, np.float32)
        exact[there] = (np.repeat(keys[rows], there.sum(axis=1), axis=0) * engine.encode(pixels).keys).sum(axis=1)
        same = np.zeros(there.shape, np.bool_)
        entries = np.split(np.arange(len(pixels)), there.sum(axis=1).cumsum()[:-1])
        of_entries = Looks.of(pixels)
        for row, own in enumerate(entries):
            if len(own):
                same[row, there[row]] = copies_of(looks[row : row + 1], of_entries[own])
        others = there & ~same
        highest = max(highest, float(exact[others].max(initial=-1.0)))
        highest_stored = max(highest_stored, float(stored[rows][others].max(initial=-1.0)))
        seen, copies = seen + len(rows), copies + int(same.any(axis=1).sum())
    if highest_stored < 0:
        return None
    return SameAs(exact=min(highest, CLOSEST), stored=highest_stored, images=seen, copies=copies)
