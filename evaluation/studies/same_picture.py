"""Whether a picture that was taught is known again: itself, encoded or scaled anew, and no other picture for it.

Test images are taught, each under a label that the bundle does not give it, and asked about: each alone, as soon as it
is taught, then all of them together with as many images that nobody taught.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.evaluation.evaluate import unseen
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.images import Geometry, fit
from secondlook.model.intervals import Interval, wilson

Pixels = NDArray[np.uint8]

IMAGES = 1000
"""That are taught, and as many that are not."""

AT_ONCE = 64


def _encoded(quality: int) -> Callable[[Pixels], Pixels]:
    def again(image: Pixels) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))

    return again


def _scaled(share: float) -> Callable[[Pixels], Pixels]:
    def again(image: Pixels) -> Pixels:
        height, width = (max(1, round(side * share)) for side in image.shape[:2])
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return fit(small, Geometry.covering(*image.shape[:2]))

    return again


def _cut(image: Pixels) -> Pixels:
    height, width = (max(1, round(side * 0.03)) for side in image.shape[:2])
    return fit(Image.fromarray(image[height:, width:]), Geometry.covering(*image.shape[:2]))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "the same": lambda image: image,
    "JPEG, quality 95": _encoded(95),
    "JPEG, quality 70": _encoded(70),
    "3 % larger": _scaled(1.03),
    "3 % smaller": _scaled(0.97),
    "3 % cut off": _cut,
}


@dataclass(frozen=True)
class SameFound:
    """What ``same_picture`` measured."""

    generation: str
    dataset: str
    images: int
    limit: float
    """Similarity beyond which an entry is the same picture."""
    alone: int
    """Images answered with their new label as soon as they were taught, each with nothing else taught."""
    copies: dict[str, tuple[int, int]]
    """For each kind of copy, with all of them taught: how many are known again, and answered with the new label."""
    others: int
    """Of as many images that were not taught: those taken for one that was, or for another entry."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """One."""
        rows = [("the same, taught alone", f"{self.alone:,}", f"{self.alone:,}", self._share(self.alone))]
        rows += [(name, f"{same:,}", f"{right:,}", self._share(same)) for name, (same, right) in self.copies.items()]
        rows.append(("images that were not taught", f"{self.others:,}", "", self._share(self.others)))
        return [
            Table(
                f"{self.images:,} images of {self.dataset} taught under another label, generation {self.generation}",
                ("asked about", "same_as", "answered with it", "same_as, %"),
                tuple(rows),
                f"the same picture: more similar than {self.limit:.4f}; in brackets 95 % intervals",
            )
        ]

    def figures(self) -> list[Figure]:
        """None."""
        return []

    def _share(self, count: int) -> str:
        share = wilson(count, self.images)
        return Interval(*(100 * value for value in share)).text(1)


def same_picture(bundle: Bundle, dataset: Dataset, *, images: int = IMAGES, progress: Progress = silent) -> SameFound:
    """Teach a dataset's images to a bundle, and ask about them, copies of them, and as many others.

    Raises:
        BundleError: the bundle has no limit beyond which a picture is the same.
        DatasetError: the dataset's classes are not the bundle's, it caches it, or it has too few images.
    """
    dataset = unseen(dataset, bundle.manifest)
    limits = bundle.manifest.same_as
    if limits is None:
        raise BundleError(
            f"bundle {bundle.manifest.generation} cannot tell the same picture: secondlook fit --calibrate measures how"
        )
    images = min(images, len(dataset.labels) // 2)
    if not images:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has too few images")
    drawn = np.random.default_rng(0).permutation(len(dataset.labels))[: 2 * images]
    taught, others = (np.stack([dataset.read(int(i), bundle.geometry) for i in part]) for part in np.split(drawn, 2))
    classes = bundle.manifest.classes
    first = Predictor(bundle)
    before = _answers(first, taught)
    labels = [classes[(int(one.mixed.argmax()) + 1) % len(classes)] for one in before]
    keys = [_copies(bundle, image) for image in taught]
    alone = 0
    for number, (label, of_image) in enumerate(zip(labels, keys, strict=True), start=1):
        predictor = Predictor(bundle, _taught(bundle, {number: (label, of_image)}))
        (answer,) = _answers(predictor, taught[number - 1 : number])
        alone += _is_label(predictor, answer, label)
        progress("teach", number, images)
    together = dict(enumerate(zip(labels, keys, strict=True), start=1))
    predictor = Predictor(bundle, _taught(bundle, together))
    copies = {}
    for name, copied in COPIES.items():
        answers = _answers(predictor, np.stack([copied(image) for image in taught]))
        same = sum(answer.same_as is not None for answer in answers)
        right = sum(_is_label(predictor, one, label) for one, label in zip(answers, labels, strict=True))
        copies[name] = (same, right)
        progress("ask", len(copies), len(COPIES))
    return SameFound(
        generation=bundle.manifest.generation,
        dataset=f"{dataset.name} {dataset.split}",
        images=images,
        limit=limits.exact,
        alone=alone,
        copies=copies,
        others=sum(answer.same_as is not None for answer in _answers(predictor, others)),
    )


def _taught(bundle: Bundle, images: Mapping[int, tuple[str, Floats]]) -> Overlay:
    """A bundle with images' labels and keys (copies,D), by number."""
    copies = {n: (label, dict(zip((False, True), keys, strict=False))) for n, (label, keys) in images.items()}
    return Overlay(bundle).changed(1, b"", labels={}, images=copies, corrections={})


def _answers(predictor: Predictor, images: Pixels) -> list[Answer]:
    found = []
    for start in range(0, len(images), AT_ONCE):
        part = np.ascontiguousarray(images[start : start + AT_ONCE])
        for answer in predictor.predict(part, [predictor.defaults] * len(part)):
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Answer)
            found.append(answer)
    return found


def _copies(bundle: Bundle, image: Pixels) -> NDArray[np.float32]:
    """Keys (copies,D) of an image, as the bundle keeps them of one that is taught."""
    copies = [image, image[:, ::-1]] if bundle.manifest.dataset.mirrored else [image]
    return np.concatenate([bundle.engine.encode(np.ascontiguousarray(copy)[None]).keys for copy in copies])


def _is_label(predictor: Predictor, answer: Answer, label: str) -> bool:
    return predictor.classes[int(answer.mixed.argmax())] == label
