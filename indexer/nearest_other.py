"""How near a held-out image ever is to another picture: beyond that, an entry is the same picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.cache import Floats, Ints
from model.manifest import SameAs
from model.stores import Neighbors

MOST, ENTRIES = 128, 3
"""So many of the holdout's images are looked at, those nearest to an entry, and so many entries of each."""

CLOSEST = 0.9999
"""What is nearer than this is the same picture at any rate: a copy in the holdout may have gone unseen."""


def nearest_other(keys: Floats, found: Neighbors, exact_keys: Callable[[Ints], Floats] | None = None) -> SameAs | None:
    """The greatest similarities of a holdout's images, with keys (n,D), to other pictures; None where there are none.

    ``found`` are their nearest entries as the store has them, (n,m), without those that show the same picture
    (``indexer.copies``). ``exact_keys`` gives the keys (b,D) of entries (b,), ascending, as the encoder makes them;
    None = the store keeps those.
    """
    ids, stored = found.ids[:, :ENTRIES], found.similarities[:, :ENTRIES]
    if not ids.size or not (ids[:, 0] >= 0).any():
        return None
    rows = np.argsort(-np.where(ids[:, 0] >= 0, stored[:, 0], -np.inf), kind="stable")[:MOST]
    highest = exact = float(stored[rows[0], 0])
    if exact_keys is not None:
        wanted = ids[rows]
        several, places = np.unique(wanted[wanted >= 0], return_inverse=True)
        own = np.broadcast_to(rows[:, None], wanted.shape)[wanted >= 0]
        exact = float((exact_keys(several)[places] * keys[own]).sum(axis=1).max())
    return SameAs(exact=min(exact, CLOSEST), stored=highest, images=len(rows))
