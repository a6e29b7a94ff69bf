"""Repositories of Hugging Face's hub: what of them is fetched, and what is said where that fails.

Needs huggingface_hub, which keeps what it fetched; its own settings are HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from pathlib import Path

from secondlook.model.errors import NetworkError

_ABOUT = ["*.json", "*.txt", "model.onnx*", "onnx/model.onnx*"]
_WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"], ["*.onnx"])
"""One after the other, until a repository has some: an ONNX file needs no PyTorch, and safetensors hold no pickle."""


def fetched(repository: str) -> Path:
    """The folder with an ONNX file of a repository, or else with its weights, and what describes them.

    Raises:
        NetworkError: it cannot be fetched, or has no weights that can be read.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise NetworkError(
            f"hf:{repository} needs the package huggingface_hub: pip install huggingface_hub, or give hf:FOLDER with "
            "the repository's files"
        ) from error
    try:
        folder = Path(snapshot_download(repository, allow_patterns=_ABOUT))
        wanted = list(_ABOUT)
        for weights in _WEIGHTS:
            if onnx_in(folder) is not None or weights_in(folder):
                return folder
            wanted += weights
            folder = Path(snapshot_download(repository, allow_patterns=wanted))
    except GatedRepoError as error:
        raise NetworkError(
            f"hf:{repository} is given only to those who accepted its terms: accept them on its page, type hf auth "
            "login, and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise NetworkError(
            f"hf:{repository} is not on the hub, or it is private: check its name, or type hf auth login"
        ) from error
    except HFValidationError as error:
        raise NetworkError(f"hf:{repository} names no repository: write hf:ORG/NAME, or hf:FOLDER") from error
    except LocalEntryNotFoundError as error:
        raise NetworkError(
            f"hf:{repository} cannot be fetched: the hub is not reached from here; {_ELSEWHERE.format(repository)}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise NetworkError(f"hf:{repository} cannot be fetched ({first}): {_ELSEWHERE.format(repository)}") from error
    if onnx_in(folder) is not None or weights_in(folder):
        return folder
    raise NetworkError(
        f"hf:{repository} has neither an ONNX file nor weights in safetensors: name another repository, or give "
        "FILE.py:FUNCTION that returns the module"
    )


_ELSEWHERE = "type hf download {0} --local-dir FOLDER where it is, and give hf:FOLDER"


def onnx_in(folder: Path) -> Path | None:
    """The ONNX file of a folder, that of a hub's repository first."""
    for name in ("onnx/model.onnx", "model.onnx"):
        if (folder / name).is_file():
            return folder / name
    return next(iter(sorted(folder.glob("*.onnx"))), None)


def weights_in(folder: Path) -> list[Path]:
    """Weights of a module, for transformers or timm."""
    return sorted((*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")))
