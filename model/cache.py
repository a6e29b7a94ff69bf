"""The cache's arithmetic: A. E. Orhan, 'A Simple Cache Model for Image Recognition' (NeurIPS 2018), equations 1 to 3.

For a query q and cached keys k_i with values v_i::

    p_cache(y|x) = sum_i exp(theta (q.k_i - m)) [v_i = y] / sum_i exp(theta (q.k_i - m)),   m = max_i q.k_i
    p(y|x)       = (1 - lam) p_net(y|x) + lam p_cache(y|x)

The sum runs over the k nearest entries (``vote``) or over all of them (``exact_vote``). The maximum is subtracted
always: 24 perfect matches at theta 85.6 overflow float32 otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import ParameterError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MAX_THETA = 1e6
"""Beyond it only the very nearest entry votes, and from 1e38 on float32 overflows; the paper's values are below 100."""


def check_parameters(theta: float, lam: float, k: int | None) -> None:
    """Refuse what the formulas have no meaning for.

    Raises:
        ParameterError: theta is not in (0, 1e6], lam is not in [0, 1], or k is below 1 (None = all).
    """
    if not 0 < theta <= MAX_THETA:
        raise ParameterError(f"theta must be above 0 and at most {MAX_THETA:,.0f}, not {theta}")
    if not 0 <= lam <= 1:
        raise ParameterError(f"lam must be between 0 and 1, not {lam}")
    if k is not None and k < 1:
        raise ParameterError(f"k must be at least 1 (or all), not {k}")


def check_lam(lam: float | None, *, has_head: bool) -> None:
    """Refuse another lam than 1 where the network has no head; None = that is left to the bundle.

    Raises:
        ParameterError: lam is another one.
    """
    if not has_head and lam is not None and lam != 1:
        raise ParameterError(f"lam is 1 here, not {lam:g}: the network has no head, and the cache answers alone")


def softmax(logits: Floats, classes: int | None = None) -> Floats:
    """p_net: logits (B,C) -> probabilities (B,classes) float32, 0 from C on: the network does not know those.

    Without a head, C = 0, all are 0.
    """
    if not logits.shape[1]:
        return np.zeros((len(logits), classes or 0), np.float32)
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    probabilities: Floats = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    unknown = (classes or 0) - logits.shape[1]
    return np.pad(probabilities, ((0, 0), (0, unknown))) if unknown > 0 else probabilities


def weights(similarities: Floats, values: Ints, theta: float) -> NDArray[np.float64]:
    """Each neighbour's share of the vote: similarities and values (B,k) -> (B,k) float64, rows summing to 1.

    A value below 0 marks a place with no entry: it has weight 0. A row without any entry is all 0.
    """
    raw = similarities.astype(np.float64)
    if values.size and values.min() < 0:
        raw[values < 0] = -np.inf
    # The bounds keep a row without entries, whose maximum is -inf, at 0.
    raw -= np.maximum(raw.max(axis=1, keepdims=True, initial=-np.inf), -1e300)
    raw *= theta
    np.exp(raw, out=raw)
    raw /= np.maximum(raw.sum(axis=1, keepdims=True), 1e-300)
    return raw


def vote(similarities: Floats, values: Ints, theta: float, classes: int) -> Floats:
    """p_cache of the k nearest entries: similarities and values (B,k) -> (B,classes) float32."""
    rows = len(values)
    cells = np.maximum(values, 0)
    cells += np.arange(0, rows * classes, classes)[:, None]
    counts = np.bincount(cells.ravel(), weights(similarities, values, theta).ravel(), minlength=rows * classes)
    return counts.reshape(rows, classes).astype(np.float32)


def class_weights(counts: Ints, known: int) -> NDArray[np.float64] | None:
    """How much an entry of each class counts in the vote (C,), from the entries of each; None where all count the same.

    Classes from ``known`` on were added, an image at a time: they have few entries because nobody added more, and not
    because they are rare. Each of them votes as if it had as many as a class of the network's has on average
    (docs/decisions/011); where there is nothing but added classes, as any of them has (docs/decisions/023).
    """
    usual = counts[:known] if counts[:known].any() else counts[counts > 0]
    if known >= len(counts) or not len(usual):
        return None
    weights = np.ones(len(counts))
    weights[known:] = np.maximum(1.0, usual.mean() / np.maximum(counts[known:], 1))
    return weights


def reweigh(cache: Floats, by_class: NDArray[np.float64] | None) -> Floats:
    """p_cache (B,C) with each class's votes counted so many times."""
    if by_class is None:
        return cache
    votes = cache * by_class
    votes /= np.maximum(votes.sum(axis=1, keepdims=True), 1e-300)
    reweighed: Floats = votes.astype(np.float32)
    return reweighed


LEAST_OF_NEW = 0.5
"""Of what the cache gives to classes that the network does not know, which no lam was fitted for: the cautious half."""


def new_classes(known: int, classes: int, few: Sequence[int] = ()) -> Ints:
    """Those of C classes that a network does not know, which has logits of the first ``known``: ``few``, and the rest.

    Of a network without a head (0) there is nothing to say: none.
    """
    return np.array([*few, *range(known, classes)] if known else [], np.int64)


def mix(network: Floats, cache: Floats, lam: float, new: Ints | None = None) -> Floats:
    """The mixture of p_net and p_cache, both (B,C); p_net alone where no entry voted (a row of 0).

    Where neither says anything, all classes are as likely. Classes that are ``new`` to the network (n,), of which it
    knows nothing, have half of what the cache gives them at least, and the others what is left, in their proportions
    (docs/decisions/019).
    """
    has_votes = cache.any(axis=1)
    is_voted = has_votes.all()
    share = np.float32(lam) if is_voted else np.where(has_votes, np.float32(lam), np.float32(0))[:, None]
    mixed: Floats = (np.float32(1) - share) * network
    mixed += share * cache
    if not is_voted:
        mixed[~has_votes & ~network.any(axis=1)] = np.float32(1 / network.shape[1])
    if new is not None and len(new) and lam < LEAST_OF_NEW:
        of_new = cache[:, new]
        given = of_new.sum(axis=1, keepdims=True)
        mixed *= (1 - LEAST_OF_NEW * given) / (1 - lam * given)
        mixed[:, new] = LEAST_OF_NEW * of_new
    return mixed


def exact_vote(
    queries: Floats, entries: Iterable[tuple[Floats, Ints]], thetas: tuple[float, ...], classes: int
) -> tuple[Floats, NDArray[np.float64], Floats]:
    """p_cache of all entries, for several thetas in one pass over the keys.

    Queries (B,D) and chunks of keys (n,D) with values (n,) -> (len(thetas),B,classes) float32, the sums (len(thetas),B)
    by which the weights relative to the nearest entry's were divided, and that entry's similarity (B,). The maximum is
    a running one, so memory stays at B x n similarities whatever the number of entries is. Without any entry, the votes
    and similarities are 0 and the sums the least there is.
    """
    sums = np.zeros((len(thetas), len(queries), classes))
    top = np.full((len(queries), 1), -np.inf, np.float32)
    scale = np.asarray(thetas)[:, None, None]
    for keys, values in entries:
        # Sorted by class, each class's weights are one run, summed without a loop over classes.
        order = np.argsort(values, kind="stable")
        present, first = np.unique(values[order], return_index=True)
        similarities = (queries @ keys.T)[:, order]
        higher = np.maximum(top, similarities.max(axis=1, keepdims=True))
        sums *= np.exp(scale * (top - higher).astype(np.float64))
        similarities -= higher
        for i, theta in enumerate(thetas):
            sums[i][:, present] += np.add.reduceat(np.exp(np.float32(theta) * similarities), first, axis=1)
        top = higher
    totals = np.maximum(sums.sum(axis=2), 1e-300)
    return (sums / totals[:, :, None]).astype(np.float32), totals, np.where(np.isneginf(top), 0, top)[:, 0]
