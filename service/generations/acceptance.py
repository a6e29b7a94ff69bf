"""Refuses a generation that gives no probabilities, or more errors than the active one."""

from __future__ import annotations

import math

import numpy as np

from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.errors import BundleError
from secondlook.model.manifest import FitReport, Manifest
from secondlook.service.errors import AcceptanceError

CANARIES = 4
MARGIN = 1.0
"""Percentage points by which a new generation's error may exceed the active one's."""
NOISE = 2.0
"""Standard errors of the difference up to which it may be chance."""


def check_canary(predictor: Predictor) -> None:
    """Have fixed images answered all the way: encoded, looked up, voted on, mixed. Warms the engine up too.

    Raises:
        BundleError: an answer is not a distribution over the classes, where there are any.
    """
    images = np.random.default_rng(0).integers(0, 256, (CANARIES, *predictor.bundle.engine.size, 3), dtype=np.uint8)
    images[1:] = images[1:] // 128 * 255  # noise, and harder noise
    whole = 1 if predictor.classes else 0
    for answer in predictor.predict(images, [predictor.defaults] * CANARIES, 1):
        # A NaN fails the comparison too.
        if not isinstance(answer, Answer) or not abs(float(answer.mixed.sum()) - whole) < 1e-3:
            generation = predictor.bundle.manifest.generation
            raise BundleError(f"bundle {generation} is refused: it gives no probabilities for a test image")


def compare(new: Manifest, active: Manifest) -> str:
    """Hold a new generation's error to the active one's; what was compared, as a sentence.

    Each error is that of the mixture on the bundle's own holdout, from its fit report: other images, where the dataset
    has changed, and a holdout is a sample. So a generation is refused only where it is worse by more than MARGIN
    and by more than NOISE standard errors of the difference of two such samples; on the same images
    the true standard error is smaller, which errs on the side of the new one.

    Nothing is compared where the datasets have other classes (the two answer different questions) or where
    one was built with a given theta, lam and k and so has no fit report. Of classes that one of the two does not have,
    as taught ones that were folded in, no images are counted.

    Raises:
        AcceptanceError: it is worse.
    """
    if set(active.dataset_classes) != set(new.dataset_classes):
        return "errors not compared: the active generation has other classes"
    if new.fit is None or active.fit is None:
        return "errors not compared: one of the two generations was not fitted on a holdout"
    both = {one.label for one in new.fit.classes} & {one.label for one in active.fit.classes}
    (ours, asked), (theirs, asked_before) = (_errors(fit, both) for fit in (new.fit, active.fit))
    what = (
        f"{ours:.2f} % error on its {asked:,} held-out images, the active generation {theirs:.2f} % on its "
        f"{asked_before:,}"
    )
    noise = NOISE * math.hypot(_standard_error(ours, asked), _standard_error(theirs, asked_before))
    if ours - theirs > max(MARGIN, noise):
        raise AcceptanceError(
            f"generation {new.generation} was built and is whole, but is worse than the active one: {what}; "
            f"the margin is {MARGIN:g} points. Nothing was switched: activate it by hand, or rebuild with force"
        )
    return what


def _errors(fit: FitReport, labels: set[str]) -> tuple[float, int]:
    """Percent of errors, and of how many images: of some classes, or of all, where it isn't known of which class."""
    images = sum(one.images for one in fit.classes if one.label in labels)
    if not images or sum(one.images for one in fit.classes) == images:
        return fit.chosen_error_percent, fit.images
    right = sum(one.right for one in fit.classes if one.label in labels)
    return 100 * (1 - right / images), images


def _standard_error(percent: float, images: int) -> float:
    share = percent / 100
    return 100 * math.sqrt(max(share * (1 - share), 0) / max(images, 1))
