"""Networks by name: a table of what ``--network`` takes, and what is said of anything else.

An ONNX file is read here; what needs PyTorch is loaded and exported by a process of its own (``torch_export``).
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from secondlook.model.errors import NetworkError
from secondlook.model.networks.declared import json_of, of_config, of_json
from secondlook.model.networks.network import Network
from secondlook.model.networks.onnx_graph import EXPORT, read_graph
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import Preprocess

Given = Preprocess | Path | None
"""Preprocessing, or a JSON file of it, that a person gives in place of what is declared."""


class Source(NamedTuple):
    """One way to name a network."""

    form: str
    """How it is written."""
    needs: str
    opens: Callable[[str, Given], Network]
    """Given what is behind the scheme, or the whole path."""


def open_network(name: str, preprocess: Given = None) -> Network:
    """The network of that name, with other preprocessing than it declares where some is given.

    Raises:
        NetworkError: there is none, it is no classifier or backbone for images, or the name is none of the table's.
    """
    scheme, colon, rest = name.partition(":")
    if colon and rest and scheme in SCHEMES:
        return SCHEMES[scheme].opens(rest, preprocess)
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function:
        return FUNCTION.opens(name, preprocess)
    source = FILES.get(Path(name).suffix.lower())
    if source is not None:
        return source.opens(name, preprocess)
    raise NetworkError(_refusal(name))


def _onnx(name: str, preprocess: Given) -> Network:
    path = Path(name)
    graph = read_graph(path)
    classes, declared = _beside(path)
    if graph.class_names is None and classes is not None:
        graph = replace(graph, class_names=classes)
    return OnnxNetwork(graph, preprocess or declared, name)


def _beside(path: Path) -> tuple[tuple[str, ...] | None, Preprocess | None]:
    """Class names and preprocessing of the files that lie with a network which was downloaded from a hub."""
    classes, declared = None, None
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    for folder in folders:
        for name in ("preprocessor_config.json", "config.json", "open_clip_config.json"):
            if not (file := folder / name).is_file() or not isinstance(content := json_of(file), dict):
                continue
            if name == "config.json":
                classes = classes or of_config(content)
            if declared is None and (name != "config.json" or "pretrained_cfg" in content):
                declared = of_json(content, f"{name} beside {path.name}")
    return classes, declared


def _exported(kind: str) -> Callable[[str, Given], Network]:
    def opens(name: str, preprocess: Given) -> Network:
        weights = ""
        if kind != "file":
            name, _, weights = name.partition("@")
        shown = name if kind == "file" else f"{kind.replace('transformers', 'hf')}:{name}"
        with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
            path = Path(folder) / "network.onnx"
            _in_its_own_process(kind, name, weights, path, shown)
            graph = replace(read_graph(path), name=shown)
        return OnnxNetwork(graph, preprocess, shown + (f"@{weights}" if weights else ""))

    return opens


def _in_its_own_process(kind: str, name: str, weights: str, path: Path, shown: str) -> None:
    if kind == "file" and not Path(file := name.rpartition(":")[0]).is_file():
        raise NetworkError(f"there is no file {file}: name one as FILE.py:FUNCTION")
    command = [sys.executable, "-P", "-m", "secondlook.model.networks.torch_export", kind, name, weights, str(path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if ended.returncode == 0 and path.is_file():
        return
    error = path.with_name(f"{path.name}.error")
    if error.is_file():
        raise NetworkError(error.read_text())
    last = next((line.strip() for line in reversed(ended.stderr.splitlines()) if line.strip()), "")
    if "No module named" in last:
        package = last.rpartition(" ")[2].strip("'")
        raise NetworkError(f"{shown} needs the package {package}: install secondlook with the extra lab")
    why = f"signal {-ended.returncode}" if ended.returncode < 0 else last or f"exit {ended.returncode}"
    raise NetworkError(f"{shown} could not be loaded and exported ({why[:200]}): export it by hand ({EXPORT})")


def _hub(name: str, preprocess: Given) -> Network:
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(name)
    if (file := _onnx_in(folder)) is not None:
        return _onnx(str(file), preprocess)
    config = json_of(folder / "config.json") if (folder / "config.json").is_file() else {}
    if isinstance(config, dict) and "pretrained_cfg" in config:
        return _exported("timm")(f"local-dir:{folder}", preprocess)
    return _exported("transformers")(f"{folder}", preprocess)


def _downloaded(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise NetworkError(
            f"hf:{repository} needs the package huggingface_hub: pip install huggingface_hub, or give hf:FOLDER with "
            "the repository's files"
        ) from error
    wanted = ["*.json", "*.safetensors", "onnx/model.onnx*", "model.onnx*", "*.txt"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise NetworkError(
            f"hf:{repository} cannot be fetched ({first}): check its name, or give hf:FOLDER with its files"
        ) from error


def _onnx_in(folder: Path) -> Path | None:
    for name in ("onnx/model.onnx", "model.onnx"):
        if (folder / name).is_file():
            return folder / name
    return next(iter(sorted(folder.glob("*.onnx"))), None)


def _cifar(name: str, preprocess: Given) -> Network:
    try:
        from secondlook.model.networks.cifar_network import open_cifar
    except ModuleNotFoundError as error:
        raise NetworkError(f"{name} needs {error.name}: install secondlook with the extra lab") from error
    if preprocess is not None:
        raise NetworkError(f"{name} takes pixels as it was trained on them: leave out --preprocess")
    return open_cifar(Path(name))


SCHEMES = {
    "torchvision": Source("torchvision:NAME[@WEIGHTS|@FILE]", "torchvision", _exported("torchvision")),
    "timm": Source("timm:NAME[@FILE]", "timm", _exported("timm")),
    "hf": Source("hf:ORG/NAME", "huggingface_hub; without an ONNX file in it, transformers", _hub),
}
FUNCTION = Source("FILE.py:FUNCTION", "torch", _exported("file"))
FILES = {
    ".onnx": Source("FILE.onnx", "onnx", _onnx),
    ".safetensors": Source("FILE.safetensors", "torch", _cifar),
}
TABLE = (FILES[".onnx"], *SCHEMES.values(), FUNCTION, FILES[".safetensors"])
"""All of them, for help and documents."""

_STATE_DICT = (
    "holds weights without the network's code: give torchvision:NAME@{name} or timm:NAME@{name} where it is one of "
    "theirs, FILE.py:FUNCTION that returns the module with its weights, or an ONNX file ({export})"
)
_KERAS = "is Keras': export it with model.export('network.onnx', format='onnx'), then give network.onnx"
_TENSORFLOW = "is TensorFlow's: convert it with python -m tf2onnx.convert --saved-model FOLDER --output network.onnx"
_ENDINGS = {
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"), _STATE_DICT),
    **dict.fromkeys((".h5", ".keras", ".hdf5"), _KERAS),
    ".pb": _TENSORFLOW,
    ".tflite": _TENSORFLOW.replace("--saved-model FOLDER", "--tflite {name}"),
    **dict.fromkeys((".engine", ".trt", ".plan"), "is built for one GPU: give the ONNX file that it was built from"),
    **dict.fromkeys((".mlmodel", ".mlpackage"), "is Core ML's: export the network that it was made of ({export})"),
    **dict.fromkeys((".xml",), "is OpenVINO's: give the ONNX file or the module that it was made of ({export})"),
    **dict.fromkeys((".joblib", ".npz", ".msgpack"), "holds no ONNX graph: export the network ({export})"),
    ".py": "is code: say which function returns the module, as {name}:FUNCTION",
}


def _refusal(name: str) -> str:
    """One sentence on a name that is none of the table's."""
    path = Path(name)
    if name.strip() and path.is_dir():
        if (file := _onnx_in(path)) is not None:
            return f"{name} is a folder: give {file}"
        if (path / "saved_model.pb").is_file():
            return f"{name} {_TENSORFLOW.replace('FOLDER', name)}"
        return f"{name} is a folder without an ONNX file: give hf:{name} for a model of transformers or timm"
    ending = _ENDINGS.get(path.suffix.lower())
    if ending is not None:
        return f"{name} {ending.format(name=name, export=EXPORT)}"
    scheme, colon, rest = name.partition(":")
    if colon and rest:
        near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1)
        if near:
            return f"there is no {scheme}: did you mean {near[0]}:{rest}?"
    forms = ", ".join(source.form for source in TABLE)
    guess = f"; did you mean torchvision:{name} or timm:{name}?" if path.suffix == "" and not path.parent.name else ""
    return f"{name!r} names no network: give {forms}{guess}"
