"""A second opinion on images: encode, search, vote, mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import (
    SET_COVERAGE,
    doubtful_above,
    evidence_scores,
    fewest_images,
    novelty_scores,
    own_evidence,
    p_value,
    prediction_set,
    standing,
)
from secondlook.model.answering.same_picture import NEAREST, SamePictures
from secondlook.model.answering.served_cache import Parameters as Parameters
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.answering.wanted import Embed, Embedded, Found, Search
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import (
    Floats,
    Ints,
    check_lam,
    check_parameters,
    exact_vote,
    mix,
    reweigh,
    softmax,
    vote,
    weights,
)
from secondlook.model.errors import ImageError, NothingTaughtError, ParameterError, StoreUnreachableError
from secondlook.model.manifest import Standing
from secondlook.model.stores.factory import check_k
from secondlook.model.stores.store import Neighbors

MAX_NEIGHBORS = 50


@dataclass(frozen=True)
class Answer:
    """What network, cache and mixture say of one image, and why."""

    network: Floats
    """(C,) probabilities; all 0 where it has no head."""
    cache: Floats
    """(C,)."""
    mixed: Floats
    """(C,)."""
    novelty: float | None
    """The score of ``model.answering.doubt``; None where the cache could not be asked."""
    is_novel: bool | None
    """None where ``novelty`` is, and where the bundle has no calibration."""
    ids: Ints
    """(n,) the nearest entries."""
    values: Ints
    """(n,) their labels."""
    similarities: Floats
    """(n,)."""
    weights: NDArray[np.float64]
    """(n,) their shares of the vote; 0 for those beyond k."""
    full_vote: Floats
    """(C,) the vote that those are shares of: ``cache``, but all of the k nearest where an early exit settled that."""
    key: Floats
    """(D,) the image's own."""
    is_unusual: bool | None = None
    """Whether the image is novel, or nearly so; None where the cache could not be asked, or has no limit for that."""
    same_as: int | None = None
    """Id of the entry that is the same picture, and decides: ``mixed`` is its label's alone."""

    @property
    def has_network(self) -> bool:
        """Whether the network says anything: not where it has no head."""
        return bool(self.network.any())

    @property
    def has_cache(self) -> bool:
        """Whether any entry voted: not where there is none, nor where the cache could not be asked."""
        return bool(self.cache.any())


@dataclass(frozen=True)
class Overrides:
    """Parameters that a call gives in place of the bundle's own; None = as the bundle says, k "all" = all entries.

    Raises:
        ParameterError: one is out of its range, whatever the bundle.
    """

    theta: float | None = None
    lam: float | None = None
    k: int | Literal["all"] | None = None

    def __post_init__(self) -> None:
        for name, number, kind in (("theta", self.theta, Real), ("lam", self.lam, Real), ("k", self.k, Integral)):
            if number is not None and not isinstance(number, kind) and not (name == "k" and number == "all"):
                raise ParameterError(f"{name} must be a {'whole ' * (name == 'k')}number, not {number!r}")
        theta, lam = 1.0 if self.theta is None else self.theta, 0.0 if self.lam is None else self.lam
        check_parameters(theta, lam, None if self.k == "all" else self.k)


NO_OVERRIDES = Overrides()


class Given(Parameters):
    """Parameters that a call gave, all or some: the formula answers, whatever is the same picture.

    They equal the bundle's own where the values do.
    """

    __slots__ = ()


Wanted = Parameters | Embed | Search
"""What is asked of an image; a prediction under its parameters."""
Outcome = Answer | Embedded | Found | ImageError | StoreUnreachableError
"""What comes of it."""


class Predictor:
    """Answers with one bundle, and what was added since; ``predict`` is called from one thread at a time.

    While the store does not answer, the network does without it where ``network_fallback`` says so and it has a head.
    """

    def __init__(self, bundle: Bundle, overlay: Overlay | None = None, *, network_fallback: bool = False) -> None:
        self.network_fallback = network_fallback and bundle.manifest.has_head
        self.bundle, self.overlay = bundle, overlay or Overlay(bundle)
        self.classes, self.store = self.overlay.classes, self.overlay.store
        self.served = ServedCache.of_overlay(self.overlay)
        manifest = bundle.manifest
        self.defaults = Parameters(manifest.theta, manifest.lam, manifest.k)
        self._new = manifest.new_classes(len(self.classes))
        """Classes that the network does not know."""
        calibration = manifest.calibration
        self._novelty = calibration.novelty if calibration else None
        evidence = self._novelty.evidence if self._novelty else None
        self._has_doubtful = evidence is not None and evidence.doubtful is not None
        self._same = SamePictures(manifest.same_as, bundle.exact_keys)
        # The neighbour whose similarity the novelty score is made from.
        self._nth = min(self._novelty.neighbor if self._novelty else 1, self.served.most)

    @property
    def knows_nothing(self) -> bool:
        """Whether nothing can be said of any image: the network has no head, and there is no entry."""
        return not self.bundle.manifest.has_head and not self.store.count

    def require_knowledge(self) -> None:
        """Refuse to make something of answers that say nothing.

        Raises:
            NothingTaughtError: they do.
        """
        if self.knows_nothing:
            raise NothingTaughtError

    def parameters(self, overrides: Overrides = NO_OVERRIDES) -> Parameters:
        """The bundle's parameters, with some replaced.

        Raises:
            ParameterError: the bundle's store cannot serve that k, or its network has no head and lam is not 1.
        """
        check_lam(overrides.lam, has_head=self.bundle.manifest.has_head)
        theta, lam, k = overrides.theta, overrides.lam, overrides.k
        chosen = (Parameters if overrides == NO_OVERRIDES else Given)(
            self.defaults.theta if theta is None else theta,
            self.defaults.lam if lam is None else lam,
            None if k == "all" else self.defaults.k if k is None else k,
        )
        check_k(chosen.k, self.bundle.manifest.store)
        return chosen

    def predict(
        self,
        images: NDArray[np.uint8],
        asked: Sequence[Wanted],
        neighbors: int = 0,
        timer: StageTimer | None = None,
    ) -> list[Outcome]:
        """Answer for images (B,height,width,3), to each what is asked; one bad image fails alone.

        A prediction is asked for by its parameters. ``neighbors`` is how many of the nearest entries each lists. What
        each stage takes is added to ``timer``. Where the store does not answer, those that need it have the error in
        their place.

        Raises:
            StoreUnreachableError: it does not answer, all of them need it, and there is no ``network_fallback``.
        """
        timer = timer or StageTimer()
        with timer.stage("encode"):
            logits, keys = self.bundle.engine.encode(images)
        sound = np.asarray(np.isfinite(np.concatenate((logits, keys), axis=1)).all(axis=1))
        logits = np.where(sound[:, None], logits, 0)
        keys = np.where(sound[:, None], keys, 0)
        groups: dict[tuple[Wanted, bool], list[int]] = {}
        for row, wanted in enumerate(asked):
            groups.setdefault((wanted, isinstance(wanted, Given)), []).append(row)
        answers: list[Outcome] = [ImageError("the network gives no finite answer for this image")] * len(asked)
        for (wanted, _), rows in groups.items():
            told: Sequence[Outcome]
            try:
                if isinstance(wanted, Embed):
                    told = [Embedded(keys[row], logits[row]) for row in rows]
                elif isinstance(wanted, Search):
                    told = self.search(keys[rows], wanted.k, timer)
                else:
                    told = self._predicted(logits[rows], keys[rows], wanted, neighbors, timer)
            except StoreUnreachableError as error:
                if len(groups) == 1:
                    raise
                told = [error] * len(rows)
            for row, one in zip(rows, told, strict=True):
                if sound[row]:
                    answers[row] = one
        return answers

    def of_keys(self, logits: Floats, keys: Floats, neighbors: int = 0) -> list[Answer]:
        """Answers for images that were embedded before, by their logits (n,C) and keys (n,D), which are finite.

        Under the bundle's own parameters; it may be called while another thread predicts.

        Raises:
            StoreUnreachableError: the store does not answer, and there is no ``network_fallback``.
        """
        return self._predicted(logits, keys, self.defaults, neighbors, StageTimer())

    def search(self, keys: Floats, k: int, timer: StageTimer | None = None) -> list[Found]:
        """The k nearest entries of each of keys (n,D), or all where there are fewer.

        Raises:
            StoreUnreachableError: the store does not answer.
        """
        with (timer or StageTimer()).stage("search"):
            hits = self.store.search(keys, min(k, self.served.most))
        return [Found(*of) for of in zip(hits.ids, hits.values, hits.similarities, strict=True)]

    def _predicted(
        self, logits: Floats, keys: Floats, parameters: Parameters, neighbors: int, timer: StageTimer
    ) -> list[Answer]:
        """Answers by logits (n,c) and keys (n,D), all under the same parameters."""
        network = softmax(logits, len(self.classes))
        if not self.classes:
            return [_without_cache(*of) for of in zip(network, keys, strict=True)]
        own = own_evidence(self._novelty, logits, network, keys, self.bundle.directions)
        try:
            hits, cache, shares, full_vote = self._ask_cache(keys, network, own, parameters, neighbors, timer)
        except StoreUnreachableError:
            if not self.network_fallback:
                raise
            return [_without_cache(*of) for of in zip(network, keys, strict=True)]
        # Where a call gives parameters, they alone decide.
        is_given = isinstance(parameters, Given)
        mixed = mix(network, cache, parameters.lam, None if is_given else self._new)
        is_own = not is_given and parameters == self.defaults
        places = self._same.find(keys, hits) if is_own else np.full(len(keys), -1)
        same = np.flatnonzero(places >= 0)
        mixed[same] = 0.0
        mixed[same, hits.values[same, places[same]]] = 1.0
        scores, unusual = self._novelty_of(hits, own, mixed.argmax(axis=1))
        listed = shares.shape[1]
        return [
            Answer(
                network[i],
                cache[i],
                mixed[i],
                scores[i],
                scores[i] > self._novelty.threshold if self._novelty else None,
                hits.ids[i, :listed],
                hits.values[i, :listed],
                hits.similarities[i, :listed],
                shares[i],
                full_vote[i],
                keys[i],
                unusual[i] if self._has_doubtful else None,
                int(hits.ids[i, places[i]]) if places[i] >= 0 else None,
            )
            for i in range(len(keys))
        ]

    def _novelty_of(self, hits: Neighbors, own: NDArray[np.float64], said: Ints) -> tuple[list[float], list[bool]]:
        """Novelty scores of images (B,) that are said to be of those classes, and which are novel or nearly so."""
        novelty = self._novelty
        scores = novelty_scores(novelty, hits.similarities[:, self._nth - 1], own)
        limits = np.full(len(scores), doubtful_above(novelty.evidence if novelty else None))
        # Without a head evidence goes by keys alone, which know all of the bundle's classes.
        manifest = self.bundle.manifest
        is_new = np.isin(said, self._new) if manifest.has_head else said >= len(manifest.classes)
        if novelty is not None and novelty.of_added is not None and is_new.any():
            # Of a class that it does not know, the network has only doubt.
            scores[is_new] = evidence_scores(novelty.of_added, hits.similarities[is_new, 0])
            limits[is_new] = doubtful_above(novelty.of_added)
        return scores.tolist(), (scores > limits).tolist()

    def standing(self, answer: Answer, parameters: Parameters) -> Standing | None:
        """How far to trust an answer, in one word; None where the bundle has no calibration."""
        if answer.same_as is not None:
            return "known"
        if not answer.has_network and not answer.has_cache:
            return "unknown"
        labels = self.prediction_set(answer, parameters, SET_COVERAGE)
        return standing(
            answer.is_novel,
            answer.is_unusual,
            self.credibility(answer, parameters),
            len(labels) if labels is not None else None,
        )

    def credibility(self, answer: Answer, parameters: Parameters) -> float | None:
        """The conformal p-value of an answer's class; None where the bundle has no calibration for that vote."""
        calibration, own = self.bundle.calibrated.calibration, self.defaults
        is_fitted = parameters[::2] == own[::2]
        if calibration is None or calibration.credibility is None or not is_fitted or not answer.has_cache:
            return None
        return p_value(calibration.credibility, 1.0 - float(answer.cache[answer.mixed.argmax()]))

    def prediction_set(self, answer: Answer, parameters: Parameters, coverage: float) -> list[str] | None:
        """Labels that hold the right one so often, most probable first.

        None without a calibration for that mixture, or where its images are too few to promise so much.
        """
        calibration = self.bundle.calibrated.calibration
        if calibration is None or calibration.sets is None or parameters != self.defaults or not answer.has_cache:
            return None
        if calibration.sets.images < fewest_images(coverage):
            return None
        classes = self.classes
        return [classes[label] for label in prediction_set(calibration.sets, answer.mixed, coverage)]

    def _ask_cache(
        self,
        keys: Floats,
        network: Floats,
        own: NDArray[np.float64],
        parameters: Parameters,
        neighbors: int,
        timer: StageTimer,
    ) -> tuple[Neighbors, Floats, NDArray[np.float64], Floats]:
        """Neighbours, p_cache (n,C), the nearest ones' shares of the full vote (n,neighbors), and that vote (n,C)."""
        store, by_class = self.store, self.overlay.class_weights
        theta, _, k = parameters
        listed = min(neighbors, store.count)
        cache = None
        if parameters == self.defaults and k is not None and self._nth <= k:
            hits, cache = self.served.search_and_vote(keys, network, parameters, self._novelty, own, timer)
            if not listed:
                return hits, cache, np.zeros((len(keys), 0)), cache
            # Listing neighbours shows more of the cache but changes no answer.
        # Bounded, because a store fills up to k places: a k of 10^12 must cost no more than all entries.
        with timer.stage("search"):
            hits = store.search(keys, min(max(listed, self._nth, k or NEAREST), self.served.most))
        shares = np.zeros((len(keys), listed))
        if k is None:
            with timer.stage("vote"):
                votes, totals, top = exact_vote(keys, timer.each(store.chunks()), (theta,), network.shape[1])
            near = hits.similarities[:, :listed].astype(np.float64)
            shares[:] = np.exp(theta * (near - top[:, None])) / totals[0][:, None]
            full_vote = votes[0]
        else:
            similarities, values = hits.similarities[:, :k], hits.values[:, :k]
            nearest = weights(similarities, values, theta)[:, :listed]
            shares[:, : nearest.shape[1]] = nearest
            with timer.stage("vote"):
                full_vote = vote(similarities, values, theta, network.shape[1])
        if by_class is not None:
            shares *= by_class[np.maximum(hits.values[:, :listed], 0)]
            shares /= np.maximum((full_vote * by_class).sum(axis=1, keepdims=True), 1e-300)
            full_vote = reweigh(full_vote, by_class)
        return hits, full_vote if cache is None or k is None else cache, shares, full_vote


def _without_cache(network: Floats, key: Floats) -> Answer:
    """The network's own answer (C,), of an image with that key; C may be 0, and then none is given."""
    nothing, no_ids = np.zeros_like(network), np.empty(0, np.int64)
    none = np.empty(0, np.float32)
    return Answer(network, nothing, network, None, None, no_ids, no_ids, none, none.astype(np.float64), nothing, key)
