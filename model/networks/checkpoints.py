"""What a file of PyTorch's holds, told without PyTorch and without running anything of it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Literal

from secondlook.model.networks.torch_file import PICKLES

Kind = Literal["state dict", "torchscript", "pickle"]
_TENSORS = ("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "collections", "numpy",
            "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")  # fmt: skip
"""Modules whose names a pickle of tensors and numbers has."""


def kind_of_checkpoint(path: Path) -> tuple[Kind, str]:
    """What a file holds; and of a pickle of more than tensors, the first class or function that it would run."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _of_pickle(file.read(1 << 24))  # tensors lie behind it in the old format
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("constants.pkl") for name in names):
                return "torchscript", ""
            inside = next((name for name in names if name.endswith("data.pkl")), None)
            return ("pickle", "a zip file") if inside is None else _of_pickle(archive.read(inside))
    except (OSError, ValueError, zipfile.BadZipFile):
        return "pickle", "it cannot be read"


def _of_pickle(content: bytes) -> tuple[Kind, str]:
    stream, whole = io.BytesIO(content), 0
    strings: list[str] = []
    try:
        while whole < PICKLES:  # of the old format
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                elif operation.name == "STACK_GLOBAL" and len(strings) > 1:
                    module, name = strings[-2:]
                else:
                    if isinstance(argument, str):
                        strings.append(argument)
                    continue
                if module not in _TENSORS:
                    return "pickle", f"{module}.{name}"
            whole += 1
    except ValueError:  # the end, or tensors
        pass
    return ("state dict", "") if whole else ("pickle", "it is none that is whole")
