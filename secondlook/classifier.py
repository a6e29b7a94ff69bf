"""A bundle that answers in this process, as a server on it would."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from secondlook.answers import Asked, Embedding, Nearest, Prediction, read
from secondlook.indexer.datasets.left_out import LeftOutError, Reason
from secondlook.indexer.datasets.walk import read_image
from secondlook.model.added.replay import replayed
from secondlook.model.answering import told
from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Answer, Outcome, Overrides, Parameters, Predictor, Wanted
from secondlook.model.answering.wanted import Embed, Embedded, Found, Search
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.errors import ImageError, ParameterError
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode, fit
from secondlook.model.journal import Journal
from secondlook.one_or_many import Alone, OneOrMany
from secondlook.pictures import as_picture, is_one, is_picture, read_open

if TYPE_CHECKING:
    from secondlook.pictures import Image

T = TypeVar("T")

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
        self._predictor = Predictor(open_bundle(folder or default_root(), generation, even_empty=True))
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

    def predictions(self, images: Iterable[Image], **options: Unpack[Asked]) -> Iterator[Prediction | ImageError]:
        """Say what each of many images shows, in their order; some are read, answered and given at a time.

        An image is a path, bytes, a file open for reading bytes, an array of uint8 (height, width, 3) or of another
        shape that ``Client`` takes, or a picture of Pillow's. One that fails has its error in its place. The options
        are those of ``secondlook.answers.Asked``.

        Raises:
            ParameterError: an option is out of its range, or something is no image at all.
            StoreUnreachableError: the bundle's keys are on another machine that does not answer.
            JournalError: what was taught to the root cannot be read.
            NothingTaughtError: nothing was taught yet, and the network has no head.
        """
        places = _places(images, "predict")
        asked = _asked(**options)
        self._predictor.parameters(asked.overrides)  # what is wrong with them is said now
        self._newest().require_knowledge()

        def tell(predictor: Predictor, wanted: Wanted, answer: Outcome, filename: str | None) -> Prediction:
            assert isinstance(answer, Answer)
            assert isinstance(wanted, Parameters)
            said = told.prediction(predictor, answer, wanted, filename, asked, _nowhere)
            return read(Prediction, said, generation=self.generation, **wanted._asdict())

        return self._each(places, lambda predictor: predictor.parameters(asked.overrides), asked.nearest, tell)

    predict = OneOrMany(predictions, Prediction, ImageError)

    def searches(self, images: Iterable[Image], *, k: int | None = None) -> Iterator[Nearest | ImageError]:
        """Find the entries nearest to each of many images: ``k`` of them, 1 to 200; 20 where it is None.

        Images and errors are as for ``predictions``.
        """
        places, search = _places(images, "search"), Search() if k is None else Search(k)

        def tell(predictor: Predictor, _: Wanted, found: Outcome, filename: str | None) -> Nearest:
            assert isinstance(found, Found)
            said = told.nearest(predictor, found, filename, _nowhere)
            return read(Nearest, said, generation=self.generation)

        return self._each(places, lambda _: search, 0, tell)

    search = OneOrMany(searches, Nearest, ImageError)

    def embeddings(self, images: Iterable[Image]) -> Iterator[Embedding | ImageError]:
        """Give the key of each of many images, which is what the cache is searched with.

        Images and errors are as for ``predictions``. Keys of two generations can be compared only where both have the
        same encoder.
        """

        def tell(_predictor: Predictor, _: Wanted, embedded: Outcome, filename: str | None) -> Embedding:
            assert isinstance(embedded, Embedded)
            return Embedding(self.generation, array("f", embedded.key.tobytes()), filename)

        return self._each(_places(images, "embed"), lambda _: Embed(), 0, tell)

    embed = OneOrMany(embeddings, Embedding, ImageError)

    def _each(
        self,
        images: Iterator[tuple[str | None, Any]],
        wanted: Callable[[Predictor], Wanted],
        neighbors: int,
        tell: Callable[[Predictor, Wanted, Outcome, str | None], T],
    ) -> Iterator[T | ImageError]:
        """What is told of each image, which come with where they stand among several."""
        while given := [self._read(place, image) for place, image in islice(images, BATCH)]:
            pixels = [one.pixels for one in given if not isinstance(one.pixels, ImageError)]
            answers = iter(self._computed(np.stack(pixels), given, wanted, neighbors, tell) if pixels else ())
            for one in given:
                yield one.pixels if isinstance(one.pixels, ImageError) else next(answers)

    def _computed(
        self,
        pixels: NDArray[np.uint8],
        given: list[_Pixels],
        wanted: Callable[[Predictor], Wanted],
        neighbors: int,
        tell: Callable[[Predictor, Wanted, Outcome, str | None], T],
    ) -> Iterator[T | ImageError]:
        predictor = self._newest()
        asked = wanted(predictor)
        if isinstance(asked, Parameters):
            predictor.require_knowledge()
        with self._lock:
            answers = predictor.predict(pixels, [asked] * len(pixels), neighbors)
        names = [one.filename for one in given if not isinstance(one.pixels, ImageError)]
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, ImageError):
                yield LeftOutError(Reason.NO_KEY, f"{name}: {answer}" if name else str(answer))
            else:
                # As ``Client`` sends it: bytes that are no UTF-8 are written out.
                filename = name and Path(name).name.encode(errors="backslashreplace").decode()
                yield tell(predictor, asked, answer, filename)

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


def _places(images: Iterable[Image], one: str) -> Iterator[tuple[str | None, Any]]:
    """Images, each with where it stands among several; ``one`` is the method for one alone.

    Raises:
        ParameterError: that is one image.
    """
    if isinstance(images, Alone):
        return iter(((None, images[0]),))
    if is_one(images):
        raise ParameterError(f"several images are expected, as a list: give one image to {one}")
    return ((f"images[{place}]", image) for place, image in enumerate(images))


def _nowhere(_entry: object) -> None:
    """Pictures of entries are a server's to show."""
