"""How near a held-out image ever is to another picture: beyond that, an entry is the same picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secondlook.model.cache import Floats, Ints
from secondlook.model.manifest import SameAs
from secondlook.model.stores.store import Neighbors

MOST, ENTRIES = 128, 3
"""So many of the holdout's images are looked at, those nearest to an entry, and so many entries of each."""

CLOSEST = 0.9999
"""What is nearer than this is the same picture at any rate: a copy in the holdout may have gone unseen."""


FEWEST = 1000
"""With fewer images in the holdout, so many cached ones are asked of each other too: of few, none may be near another.
"""


def nearest_other(
    found: Neighbors, own_keys: Callable[[Ints], Floats], exact_keys: Callable[[Ints], Floats] | None = None
) -> SameAs | None:
    """The greatest similarities of images to other pictures; None where there are none.

    ``found`` are the images' nearest entries as the store has them, (n,m), without those that show the same picture
    (``datasets.copies``). ``own_keys`` gives the keys (b,D) of images (b,), ``exact_keys`` those of entries (b,), both
    ascending, as the encoder makes them; None = the store keeps those.
    """
    ids, stored = found.ids[:, :ENTRIES], found.similarities[:, :ENTRIES]
    if not ids.size or not (ids[:, 0] >= 0).any():
        return None
    first = np.argsort(-np.where(ids[:, 0] >= 0, stored[:, 0], -np.inf), kind="stable")
    highest = exact = float(stored[first[0], 0])
    rows = np.sort(first[:MOST])
    if exact_keys is not None:
        wanted = ids[rows]
        there = wanted >= 0
        several, places = np.unique(wanted[there], return_inverse=True)
        own = own_keys(rows)[np.broadcast_to(np.arange(len(rows))[:, None], wanted.shape)[there]]
        exact = float((exact_keys(several)[places] * own).sum(axis=1).max())
    return SameAs(exact=min(exact, CLOSEST), stored=highest, images=len(found.ids))


def larger(one: SameAs | None, other: SameAs | None) -> SameAs | None:
    """The limits that all images of both keep to."""
    if one is None or other is None:
        return one or other
    return SameAs(
        exact=max(one.exact, other.exact), stored=max(one.stored, other.stored), images=one.images + other.images
    )
