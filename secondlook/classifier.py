"""A bundle that answers in this process, as a server on it would."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from secondlook.answers import Asked, Prediction, read
from secondlook.indexer.datasets.left_out import LeftOutError, Reason
from secondlook.indexer.datasets.walk import read_image
from secondlook.model.added.replay import replayed
from secondlook.model.answering import told
from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Overrides, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.errors import ImageError, ParameterError
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode, fit
from secondlook.model.journal import Journal
from secondlook.pictures import as_picture, is_one, is_picture, read_open

if TYPE_CHECKING:
    from secondlook.pictures import Image

BATCH = 16
"""Images computed at once, as a server does by default."""


class _Pixels(NamedTuple):
    """One of the images that were given."""

    filename: str | None
    """None where it has no name."""
    pixels: NDArray[np.uint8] | ImageError
    """(height,width,3), or what is wrong with it."""


class Classifier:
    """A bundle, opened in this process: the answers of a server on its root, without one. Usable from several threads.

    It answers with what was taught to its root, also later and by others. The bundle is in memory, and kept from being
    removed, for as long as this object lives. Whatever generation becomes active later: this one answers.

    Args:
        root: The folder of bundles; None = the default bundle, which nobody teaches.
        generation: One of its bundles; None = the active one.
        max_pixels: Larger images are refused.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        JournalError: what was taught to the root cannot be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        generation: str | None = None,
        *,
        max_pixels: int = DEFAULT_PIXELS,
    ) -> None:
        folder = None if root is None else Path(root)
        self._limits, self._lock = Limits(max_pixels), threading.Lock()
        self._predictor = Predictor(open_bundle(folder or default_root(), generation))
        self._follower: JournalFollower | None = None
        if folder is not None:
            journal = Journal(folder)
            self._follower = JournalFollower(journal)
            # All of it now, however long it takes; what comes later is little.
            self._predictor = Predictor(self._predictor.bundle, replayed(self._predictor.overlay, journal))

    @property
    def generation(self) -> str:
        """The bundle's id."""
        return self._predictor.bundle.manifest.generation

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that answers can have, taught ones among them."""
        return self._newest().classes

    @overload  # text is an iterable of text, but always one path here
    def predict(self, images: Image, **options: Unpack[Asked]) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Iterable[Image], **options: Unpack[Asked]) -> list[Prediction | ImageError]: ...

    def predict(
        self, images: Image | Iterable[Image], **options: Unpack[Asked]
    ) -> Prediction | list[Prediction | ImageError]:
        """Say what an image shows, or each of several; images and options are those of ``predictions``.

        Of several, one that fails has its error in its place: ``isinstance(answer, Prediction)`` tells them apart.

        Raises:
            ImageError: the one image fails.
            ParameterError: an option is out of its range, or something is no image at all.
        """
        if not is_one(images):
            return list(self.predictions(cast("Iterable[Image]", images), **options))
        (answer,) = self._answers(iter(((None, images),)), _asked(**options))
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def predictions(self, images: Iterable[Image], **options: Unpack[Asked]) -> Iterator[Prediction | ImageError]:
        """Say what each of many images shows, in their order; some are read, answered and given at a time.

        An image is a path, bytes, a file open for reading bytes, an array of uint8 (height, width, 3) or of another
        shape that ``Client`` takes, or a picture of Pillow's. One that fails has its error in its place. The options
        are those of ``secondlook.answers.Asked``.

        Raises:
            ParameterError: an option is out of its range, or something is no image at all.
            StoreUnreachableError: the bundle's keys are on another machine that does not answer.
            JournalError: what was taught to the root cannot be read.
        """
        if is_one(images):
            raise ParameterError("predictions takes several images, as a list: give one image to predict")
        asked = _asked(**options)
        self._predictor.parameters(asked.overrides)  # what is wrong with them is said now
        return self._answers(((f"images[{place}]", image) for place, image in enumerate(images)), asked)

    def _answers(
        self, images: Iterator[tuple[str | None, Any]], asked: told.Asked
    ) -> Iterator[Prediction | ImageError]:
        while given := [self._read(place, image) for place, image in islice(images, BATCH)]:
            pixels = [one.pixels for one in given if not isinstance(one.pixels, ImageError)]
            answers = iter(self._computed(np.stack(pixels), given, asked) if pixels else ())
            for one in given:
                yield one.pixels if isinstance(one.pixels, ImageError) else next(answers)

    def _computed(
        self, pixels: NDArray[np.uint8], given: list[_Pixels], asked: told.Asked
    ) -> Iterator[Prediction | ImageError]:
        predictor = self._newest()
        parameters = predictor.parameters(asked.overrides)
        with self._lock:
            answers = predictor.predict(pixels, [parameters] * len(pixels), asked.nearest)
        names = [one.filename for one in given if not isinstance(one.pixels, ImageError)]
        shared = {"generation": self.generation, **parameters._asdict()}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, ImageError):
                yield LeftOutError(Reason.NO_KEY, f"{name}: {answer}" if name else str(answer))
            else:
                # As ``Client`` sends it: bytes that are no UTF-8 are written out.
                filename = name and Path(name).name.encode(errors="backslashreplace").decode()
                said = told.prediction(predictor, answer, parameters, filename, asked, _nowhere)
                yield read(Prediction, said, **shared)

    def _newest(self) -> Predictor:
        """What answers, with all that was taught until now."""
        if self._follower is not None:
            with self._lock:
                self._predictor = self._follower.renew(self._predictor, embeds=True)
        return self._predictor

    def _read(self, place: str | None, image: Any) -> _Pixels:
        """Read and decode one image; ``place`` is where it stands among several."""
        name = place
        filename: str | None = None
        try:
            if isinstance(image, str | os.PathLike):
                name = filename = os.fspath(image)
            return _Pixels(filename, self._decoded(image))
        except ImageError as error:
            if name is not None:
                error.args = (f"{name}: {error}",)
            return _Pixels(filename, error)
        except TypeError as error:
            raise ParameterError(f"{name}: {error}" if name else str(error)) from error

    def _decoded(self, image: Any) -> NDArray[np.uint8]:
        geometry, limits = self._predictor.bundle.geometry, self._limits
        if isinstance(image, str | os.PathLike):
            return decode(read_image(Path(image), limits), geometry, limits)
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image), geometry, limits)
        if not is_picture(image) and callable(getattr(image, "read", None)):
            try:
                content = read_open(image)
            except (OSError, ValueError) as error:
                raise ImageError(f"the file cannot be read: {error}") from error
            return decode(content, geometry, limits)
        if is_picture(image):
            limits.check(*image.size)
        try:
            picture = as_picture(image)
            limits.check(*picture.size)
            return fit(picture, geometry)
        except (ImageError, TypeError):
            raise
        except Exception as error:  # of a picture that is read only now, as of any file
            raise ImageError(f"the picture cannot be read: {error}") from error


def _asked(
    *,
    top: int | None = None,
    neighbors: int | None = None,
    lam: float | None = None,
    theta: float | None = None,
    k: int | Literal["all"] | None = None,
    votes: int | None = None,
    coverage: float | None = None,
    abstain: bool = False,
) -> told.Asked:
    given = {
        name: value for name, value in (("top", top), ("neighbors", neighbors), ("votes", votes)) if value is not None
    }
    return told.Asked(**given, coverage=coverage, abstain=abstain, overrides=Overrides(theta, lam, k))


def _nowhere(_entry: object) -> None:
    """Pictures of entries are a server's to show."""
