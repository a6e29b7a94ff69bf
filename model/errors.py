"""What can go wrong, as one family. Each message is the sentence that a user reads.

::

    SecondlookError
    ├── NetworkError      a network's weights or architecture
    ├── RecipeError       a key recipe that the network or the data cannot give
    ├── EngineError       an encoder that cannot run here
    ├── StoreError        a factory string, or a search that a store cannot do
    ├── StoreUnreachableError  a store on another machine that does not answer now
    ├── HomeError         a user's own folder for bundles, or the key in it, that cannot be used
    ├── BundleError       a bundle that is missing, damaged or from another version
    ├── NothingTaughtError     a question to a cache of nothing, whose network has no head either
    ├── DatasetError      a dataset that is missing or unreadable
    │   └── HoldoutError      images that parameters cannot be fitted on
    ├── PartsError        parts of an index that are missing, damaged or do not belong together
    ├── ParameterError    theta, lam, k or another number out of its range
    ├── MemoryLimitError  work that would not fit into memory
    ├── JournalError      the journal of added entries cannot be read or written
    │   └── JournalFullError     the disk is full
    ├── LabelTakenError       a label that would be taken for a known one
    ├── AddedLimitError       more added images than are accepted
    ├── RepeatedRequestError  an id that was used for another request
    └── ImageError        bytes that are not an image
        ├── ImageTooLargeError   more pixels than are accepted
        └── ImageTooSlowError    decoding it takes longer than it may
"""

from __future__ import annotations

from typing import Any


class SecondlookError(Exception):
    """Base of every error that a user or a client can cause; it reaches other processes as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As exceptions are pickled, their kind would be made of the sentence: with other arguments than it takes.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[SecondlookError], args: tuple[Any, ...], own: dict[str, Any]) -> SecondlookError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(own)
    return error


class NetworkError(SecondlookError):
    """A network's weights or architecture do not fit."""


class RecipeError(SecondlookError):
    """A key recipe asks for what the network or the data cannot give."""


class EngineError(SecondlookError):
    """An encoder cannot run on this machine."""


class StoreError(SecondlookError):
    """A store cannot be built or searched as asked."""


class StoreUnreachableError(SecondlookError):
    """A store on another machine does not answer now; it may later."""


class HomeError(SecondlookError):
    """A user's own folder for bundles, or the key in it, cannot be used."""


class BundleError(SecondlookError):
    """A bundle is missing, damaged or made by another version."""


class NothingTaughtError(SecondlookError):
    """Neither network nor cache has anything to say."""

    def __init__(self) -> None:
        super().__init__(
            "nothing is known yet: teach images of a first class, on the server's page or with POST /v1/entries"
        )


class DatasetError(SecondlookError):
    """A dataset is missing or unreadable."""


class HoldoutError(DatasetError):
    """Images that were named to fit parameters on are no good for that, as ``why`` says; others are ``wanted``."""

    def __init__(self, why: str, wanted: str) -> None:
        super().__init__(f"{why}: give --holdout {wanted}")
        self.why, self.wanted = why, wanted


class PartsError(SecondlookError):
    """Parts of an index are missing, damaged or do not belong together, or nothing can run them."""


class ParameterError(SecondlookError):
    """A parameter is out of its range."""


class MemoryLimitError(SecondlookError):
    """Work would need more memory than there is."""


class JournalError(SecondlookError):
    """The journal of added entries cannot be read or written."""


class JournalFullError(JournalError):
    """The disk has no room for more entries."""


class LabelTakenError(SecondlookError):
    """A label would be taken for another one that is ``known``."""

    def __init__(self, known: str) -> None:
        super().__init__(f"label: it differs from {known} only in how it is written: give that one, or another name")
        self.known = known


class AddedLimitError(SecondlookError):
    """More images would be added than are accepted."""

    def __init__(self, kept: int, most: int) -> None:
        super().__init__(f"{kept:,} taught images are kept, at most {most:,} are accepted: remove some")


class RepeatedRequestError(SecondlookError):
    """A request has the id of another one."""

    def __init__(self) -> None:
        super().__init__("the Idempotency-Key was used for other images or another label: give each request its own")


class ImageError(SecondlookError):
    """Bytes that are not an image of an accepted format."""


class ImageTooLargeError(ImageError):
    """An image with more pixels than are accepted."""


class ImageTooSlowError(ImageError):
    """An image that takes more of the processor to decode than it may."""
