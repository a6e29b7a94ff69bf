"""A second opinion on every image, from a memory of labelled ones.

``secondlook.open("bundles").predict("cat.png").label`` answers in this process, ``secondlook.client`` asks a server,
``secondlook.cli`` is the command; the rooms, such as ``secondlook.model``, are what all of them are made of.

Importing this module alone loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from secondlook.answers import Embedding as Embedding
    from secondlook.answers import Nearest as Nearest
    from secondlook.answers import Prediction as Prediction
    from secondlook.classifier import Classifier as Classifier
    from secondlook.model.errors import ImageError as ImageError
    from secondlook.model.errors import SecondlookError as SecondlookError

_MODULES = {
    "Classifier": "secondlook.classifier",
    "Embedding": "secondlook.answers",
    "ImageError": "secondlook.model.errors",
    "Nearest": "secondlook.answers",
    "Prediction": "secondlook.answers",
    "SecondlookError": "secondlook.model.errors",
}

__all__ = ["Classifier", "Embedding", "ImageError", "Nearest", "Prediction", "SecondlookError", "open"]


def open(
    root: str | os.PathLike[str] | None = None, generation: str | None = None, *, max_pixels: int | None = None
) -> Classifier:
    """Open a bundle to answer in this process.

    Args:
        root: The folder of bundles; None = the default bundle.
        generation: One of its bundles; None = the active one.
        max_pixels: Larger images are refused; None = 64,000,000.

    Raises:
        SecondlookError: there is no such bundle, it is damaged, or what it needs is not installed.
    """
    try:
        from secondlook.classifier import Classifier
        from secondlook.model.images import DEFAULT_PIXELS
    except ModuleNotFoundError as error:
        from secondlook.extras import remedy
        from secondlook.model.errors import EngineError

        raise EngineError(f"opening a bundle {remedy(error)}") from error
    return Classifier(root, generation, max_pixels=DEFAULT_PIXELS if max_pixels is None else max_pixels)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
