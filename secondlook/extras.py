"""What to install where a package is not there."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import requires

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


def remedy(error: ModuleNotFoundError) -> str:
    """What is missing and what to install, as the end of a sentence: ``needs torch: install secondlook with ...``.

    Raises:
        ModuleNotFoundError: what is missing is of secondlook itself.
    """
    module = (error.name or str(error)).partition(".")[0]
    if module == "secondlook":
        raise error
    extras = " or ".join(extras_with(module))
    return f"needs {module}: install secondlook {f'with the extra {extras}' if extras else 'anew, with all it needs'}"


def extras_with(module: str) -> list[str]:
    """The extras of this distribution that install a module: the smallest first, gpu last, which few machines can use.

    Those of the same size in the order of their names.
    """
    wanted = [one for one in requires("secondlook") or () if "extra ==" in one]
    sizes = Counter(extra for one in wanted for extra in _EXTRA.findall(one))
    # A distribution is called like its module, or like it and more: faiss-cpu.
    name = re.escape(_DISTRIBUTIONS.get(module, module)).replace("_", "[-_]")
    installs = re.compile(rf"{name}\b", re.IGNORECASE)
    found = [extra for one in wanted if installs.match(one) for extra in _EXTRA.findall(one)]
    return sorted(found, key=lambda extra: (extra == "gpu", sizes[extra], extra))
