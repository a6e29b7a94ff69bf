"""Methods that take one image or several, made of those that take many and give answers as they come."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from secondlook.pictures import is_one

if TYPE_CHECKING:
    from secondlook.pictures import Image

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Exception)

Many = Callable[Concatenate[Any, "Iterable[Image]", P], Iterator[T | E]]


class Alone(tuple["Image"]):
    """One image, where it was not given as one of several."""


class OneOrMany(Generic[P, T, E]):
    """A method of an image or several: answers of ``kind``, by a method of many that gives an ``error`` in their place.

    Of several, one that fails has its error in its place; an image alone gives its answer, or raises its error.
    """

    def __init__(self, many: Many[P, T, E], kind: type[T], error: type[E]) -> None:
        self._many, self._error = many, error
        self.__doc__ = (
            f"Give the {kind.__name__} of an image, or of each of several, as a list; see ``{many.__name__}``.\n\n"
            f"Of several, one that fails has its error in its place: ``isinstance(answer, {kind.__name__})`` tells "
            f"them apart.\n\nRaises:\n    {error.__name__}: the one image fails; or what ``{many.__name__}`` raises.\n"
        )

    def __get__(self, owner: object, kind: type) -> _Bound[P, T, E]:
        """The method of an object."""
        bound = _Bound(self._many, self._error, owner)
        bound.__doc__ = self.__doc__
        return bound


class _Bound(Generic[P, T, E]):
    def __init__(self, many: Many[P, T, E], error: type[E], owner: object) -> None:
        self._many, self._error, self._owner = many, error, owner

    @property
    def __signature__(self) -> inspect.Signature:
        """What ``help`` shows: that of the method of many."""
        return inspect.signature(self._many.__get__(self._owner))

    @overload  # text is an iterable of text, but always one path here
    def __call__(self, images: Image, *given: P.args, **options: P.kwargs) -> T: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Iterable[Image], *given: P.args, **options: P.kwargs) -> list[T | E]: ...

    def __call__(self, images: Image | Iterable[Image], *given: P.args, **options: P.kwargs) -> T | list[T | E]:
        if not is_one(images):
            return list(self._many(self._owner, cast("Iterable[Image]", images), *given, **options))
        (answer,) = self._many(self._owner, Alone((cast("Image", images),)), *given, **options)
        if isinstance(answer, self._error):
            raise answer
        return cast("T", answer)
