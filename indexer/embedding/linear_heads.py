"""Whether an encoder without a head can be given a linear one (``fitting.linear_head``), asked before long work."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from secondlook.model.cache import Ints
from secondlook.model.errors import DatasetError, EngineError

INSTALL = "pip install 'secondlook[photos]'"


def why_no_linear_head(labels: Ints) -> str | None:
    """What stands in the way of a linear head for images with labels (n,), as a clause; None = nothing."""
    if (np.bincount(labels) >= 2).sum() < 2:
        return "a linear head needs at least two classes with two images each"
    if find_spec("sklearn") is None:
        return f"a linear head needs scikit-learn, which is not installed: {INSTALL}"
    return None


def need_linear_head(labels: Ints) -> None:
    """Refuse, before long work, what would have no linear head.

    Raises:
        EngineError: scikit-learn is not installed. DatasetError: there are too few images of too few classes.
    """
    if (why := why_no_linear_head(labels)) is not None:
        raise EngineError(why) if "scikit-learn" in why else DatasetError(f"{why}: give --head none, or more images")
