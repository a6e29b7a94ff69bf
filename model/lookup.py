"""Looking for neighbours only as far as the answer depends on them.

Most images lie deep within one class: their first few neighbours settle the answer, and the hundreds after them would
only confirm it. So a bundle may have a quick search, a small part of its store and a margin; where the quick answer's
first class leads by that margin it is given, and only the others are searched for in full. Both were fitted on the
holdout, where the difference is known (``indexer.truncation``).
"""

from __future__ import annotations

import numpy as np

from model.cache import Floats, mix, vote
from model.manifest import Novelty, QuickSearch, SearchInfo
from model.stores import Neighbors, Store


def search_until_sure(
    store: Store,
    keys: Floats,
    network: Floats,
    theta: float,
    lam: float,
    k: int,
    novelty: Novelty | None = None,
    among: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None,
) -> Neighbors:
    """The k nearest entries of keys (B,D), fewer where those already settle the answer with network (B,C).

    The parameters must be those that the store's quick search was fitted for. With ``novelty``, an image that a quick
    search calls novel is looked for in full: more entries can only make it less so.
    """
    quick = store.search_info.quick
    if quick is None or network.shape[1] < 2:
        return store.search(keys, k, among)
    found = store.with_search(quick_effort(quick)).search(keys, min(quick.k, k), among)
    unsure = lead(mix(network, vote(found.similarities, found.values, theta, network.shape[1]), lam)) < quick.margin
    if novelty is not None:
        at = min(novelty.neighbor, found.similarities.shape[1]) - 1
        unsure |= 1.0 - found.similarities[:, at] > novelty.threshold
    missing = ((0, 0), (0, k - found.ids.shape[1]))
    similarities = np.pad(found.similarities, missing, constant_values=-np.inf)
    ids, values = (np.pad(part, missing, constant_values=-1) for part in (found.ids, found.values))
    if unsure.any():
        similarities[unsure], ids[unsure], values[unsure] = store.search(keys[unsure], k, among)
    return Neighbors(similarities, ids, values)


def quick_effort(quick: QuickSearch) -> SearchInfo:
    """How a store is searched quickly."""
    return SearchInfo(lists=quick.lists, candidates=quick.candidates)


def lead(probabilities: Floats) -> Floats:
    """By how much each row's largest of (B,C), C >= 2, exceeds its second: (B,)."""
    two = np.partition(probabilities, -2, axis=1)[:, -2:]
    ahead: Floats = two[:, 1] - two[:, 0]
    return ahead
