"""Which images parameters may be fitted on: those that the network was not trained on, whose own entries do not vote.

A network that knows an image by heart says nothing of how it errs on new ones: fitted on such images, the cache looks
useless. Whether it knows them is told by what it was trained on, where that was noted (networks trained here), by its
user, or by its own confidence: *a network errs on its training images as often as it expects to* (1 - its probability,
on average; cross-entropy sees to that), *and on others more often*, but where it was trained to doubt.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks, copies_of
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.folders import MOST_HELD, spread
from secondlook.indexer.datasets.looks import GivenHoldout
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.errors import DatasetError, HoldoutError
from secondlook.model.manifest import HoldoutInfo, NetworkInfo, Trained
from secondlook.model.networks.engines import ImageEncoder

SURE = 3.0
"""Standard errors by which a network must err more often than it expects, to be taken for new to images."""

TIMES = 1.25
"""And so many times as often: on many images, a network that is a little too sure is no news."""


@dataclass(frozen=True)
class ChosenHoldout:
    """What parameters are to be fitted on."""

    info: HoldoutInfo
    trained: Trained
    """Whether the network was trained on cached images."""
    holdout: EmbeddedQueries | None = None
    """None = nothing honest: by leave-one-out of the cache."""
    folds: Ints | None = None
    """(n,) where they are cached images, each asked of the others by cross-validation: the fold of each."""


@dataclass(frozen=True)
class TrainedOn:
    """What is known of the images that a network was trained on."""

    images: NDArray[np.uint64] | None = None
    """Digests of their pixels (``Looks``); None = that was not noted."""
    less_tenth: bool = False
    """Whether they were those of the cached dataset but for its tenth: noted in words by older networks."""
    said: Trained = "unknown"
    """What its user says of all cached images."""

    @classmethod
    def of(cls, images: NDArray[np.uint64] | None, network: NetworkInfo, cached: str, said: Trained) -> TrainedOn:
        """From digests, where they were noted, what a manifest says of the network, and what its user says now.

        ``cached`` is the name and split of what is cached.
        """
        noted = images is None and network.trained_on == f"{cached} less holdout"
        return cls(images, noted, said if said != "unknown" else network.trained_on_these)


def choose_holdout(
    tenth_name: str,
    tenth: EmbeddedQueries,
    classes: tuple[str, ...],
    cached: Looks,
    known: TrainedOn,
    encoder: ImageEncoder,
    *,
    named: Dataset | None = None,
    earlier: GivenHoldout | None = None,
    progress: Progress = silent,
    kept: KeptFeatures | None = None,
) -> ChosenHoldout:
    """Choose the images that the parameters of a cache are fitted on: ``named`` ones, ``earlier`` ones, or its tenth.

    ``classes`` and ``cached`` are the cache's classes and the looks of its images; ``earlier`` is what the bundle
    before was given.

    Raises:
        DatasetError: those that were named cannot be fitted on.
    """
    if named is not None:
        asked = spread(np.arange(len(named.labels)), MOST_HELD)
        seen = embed_queries(named, asked, encoder, progress, kept=kept)
        chosen = given_holdout(f"{named.name} {named.split}", seen, named.classes, classes, cached, known)
        if len(asked) == len(named.labels):
            return chosen
        why = f"{chosen.info.why}; {len(asked):,} of its {len(named.labels):,} were asked, evenly spread over all"
        return replace(chosen, info=chosen.info.model_copy(update={"why": why}))
    if earlier is not None:
        names = tuple(label for label in earlier.classes if label in classes)
        held, now = earlier.held, np.array([names.index(n) if n in names else -1 for n in earlier.classes])
        labels = now[held.labels]
        seen = EmbeddedQueries(held.logits, held.keys, labels, earlier.looks).part(labels >= 0)
        # Where they are cached by now, others are looked for.
        with suppress(DatasetError):
            return given_holdout(earlier.info.name, seen, names, classes, cached, known)
    return tenth_as_holdout(tenth_name, tenth, cached, known)


def expected_errors(network: Floats, labels: Ints) -> tuple[float, float, float]:
    """Shares of images that p_net (n,C) gets wrong and expects to, and their difference in standard errors."""
    wrong = network.argmax(axis=1) != labels
    doubted = 1.0 - network.max(axis=1).astype(np.float64)
    surprise = wrong - doubted
    error = float(surprise.std()) / np.sqrt(len(labels))
    return float(wrong.mean()), float(doubted.mean()), float(surprise.mean()) / max(error, 1e-9)


def tenth_as_holdout(name: str, tenth: EmbeddedQueries, cached: Looks, known: TrainedOn) -> ChosenHoldout:
    """A dataset's tenth as a holdout, or nothing, where the network may know it by heart.

    ``cached`` are the looks of all cached images.
    """

    def chosen(trained: Trained, holdout: EmbeddedQueries | None, why: str, left_out: int = 0) -> ChosenHoldout:
        count = len((holdout or tenth).labels)
        return ChosenHoldout(
            HoldoutInfo(name=name, images=count, honest=holdout is not None, why=why, left_out=left_out),
            trained,
            holdout,
        )

    if not len(tenth.labels):
        return chosen(known.said, None, "there are too few images to hold any out")
    if known.images is not None:
        seen = np.isin(tenth.looks.digests, known.images)
        trained: Trained = "yes" if np.isin(cached.digests, known.images).any() else "no"
        if 2 * seen.sum() > len(seen):
            return chosen(trained, None, "the network was trained on them")
        return chosen(trained, tenth.part(~seen), "the network was not trained on them", int(seen.sum()))
    if known.less_tenth:
        return chosen("yes", tenth, "the network was trained on the others")
    if known.said == "no":
        return chosen("no", tenth, "its user says that the network was not trained on them")
    if known.said == "yes":
        return chosen("yes", None, "its user says that the network was trained on them")
    # Of classes that it does not know, a network errs on all images, new or not.
    is_known = tenth.labels < tenth.logits.shape[1]
    if not is_known.any():
        # Keys are learned by heart far less than logits.
        return chosen("unknown", tenth, "the network has no head that could know their labels by heart")
    errs, expects, sure = expected_errors(softmax(tenth.logits[is_known]), tenth.labels[is_known])
    those = "them" if is_known.all() else f"the {is_known.sum():,} of classes that it knows"
    told = f"the network errs on {100 * errs:.1f} % of {those} and expects to on {100 * expects:.1f} %"
    if sure > SURE and errs > TIMES * expects:
        return chosen("unknown", tenth, f"{told}, as on images that are new to it")
    return chosen("unknown", None, f"{told}, as on images that it was trained on")


def given_holdout(
    name: str, seen: EmbeddedQueries, names: tuple[str, ...], classes: tuple[str, ...], cached: Looks, known: TrainedOn
) -> ChosenHoldout:
    """Images that somebody names as a holdout, less those that the cache has or the network is known to have seen.

    ``names`` are the classes of their labels, ``classes`` the cache's.

    Raises:
        DatasetError: nothing is left, they are of one class only, or of classes that the cache does not have.
    """
    strange = sorted(set(names) - set(classes))
    if strange:
        listed = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
        raise HoldoutError(
            f"the holdout {name} has classes that the cache does not have ({listed})", "images of its own"
        )
    index = {label: value for value, label in enumerate(classes)}
    labels = np.array([index[label] for label in names], np.int64)[seen.labels]
    seen = EmbeddedQueries(seen.logits, seen.keys, labels, seen.looks)
    out = copies_of(cached, seen.looks)
    if known.images is not None:
        out |= np.isin(seen.looks.digests, known.images)
    trained: Trained = known.said
    if known.images is not None:
        trained = "yes" if np.isin(cached.digests, known.images).any() else "no"
    left = seen.part(~out)
    if not len(left.labels):
        raise HoldoutError(
            f"all {len(labels):,} images of the holdout {name} are in the cache, or the network was trained on them",
            "others",
        )
    present = np.unique(left.labels)
    if len(present) < 2 <= len(classes):
        raise HoldoutError(
            f"all {len(left.labels):,} images of the holdout {name} are of one class ({classes[present[0]]}), and tell "
            "nothing of the others",
            "images of every class",
        )
    missing = [label for value, label in enumerate(classes) if value not in present]
    why = "it was given as images that the network never saw"
    if missing:
        listed = ", ".join(missing[:5]) + (f", ... ({len(missing)} in all)" if len(missing) > 5 else "")
        why += f"; none are of {listed}"
    return ChosenHoldout(
        HoldoutInfo(name=name, images=len(left.labels), honest=True, why=why, left_out=int(out.sum())), trained, left
    )
