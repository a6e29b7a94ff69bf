"""Networks by name: a table of what ``--network`` takes, and what is said of anything else.

An ONNX file is read here, and a backbone that a Python package carries; what needs PyTorch is loaded and exported by a
process of its own (``torch_export``).
"""

from __future__ import annotations

import difflib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from secondlook.model.errors import NetworkError
from secondlook.model.networks.backbones import BACKBONES, DEFAULT_BACKBONE, weights_of
from secondlook.model.networks.checkpoints import kind_of_checkpoint
from secondlook.model.networks.declared import json_of, of_config, of_json
from secondlook.model.networks.efficientnet_lite import efficientnet_lite
from secondlook.model.networks.hub import fetched, onnx_in
from secondlook.model.networks.network import Network
from secondlook.model.networks.onnx_graph import EXPORT, graph_of, read_graph
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.onnx_weights import weighted
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.torch_file import read_tensors

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
    try:
        return _opened(name, preprocess)
    except NetworkError as error:
        said = str(error)
        raise NetworkError(said if _HELP.split(" --")[0] in said else f"{said}; {_HELP}") from error


_HELP = "secondlook network --help lists what can be given"


def _opened(name: str, preprocess: Given) -> Network:
    if name in BACKBONES:
        return BACKBONE.opens(name, preprocess)
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


def _backbone(name: str, preprocess: Given) -> Network:
    backbone = BACKBONES[name]
    try:
        tensors = read_tensors(weights_of(name))
    except (ValueError, OSError) as error:
        raise NetworkError(f"the weights of {name} cannot be read: {error}") from error
    graph = graph_of(weighted(efficientnet_lite(tensors, backbone.repeats)), name)
    network = OnnxNetwork(graph, preprocess or backbone.preprocess, name)
    is_own = network.preprocess.arithmetic == backbone.preprocess.arithmetic
    return network.taking(network.preprocess.model_copy(update={"is_published": is_own}))


def _onnx(name: str, preprocess: Given, shown: str | None = None) -> Network:
    path = Path(name)
    graph = read_graph(path)
    classes, declared = _beside(path)
    if graph.class_names is None and classes is not None:
        graph = replace(graph, class_names=classes)
    return OnnxNetwork(graph, preprocess or declared, shown or name)


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
        if kind == "file":
            return _by_pytorch(kind, name, "", name, preprocess)
        module, _, weights = name.partition("@")
        return _by_pytorch(kind, module, weights, f"{kind}:{name}", preprocess)

    return opens


def _by_pytorch(kind: str, name: str, weights: str, shown: str, preprocess: Given) -> Network:
    """A network that a process of its own loads and exports; people know it as ``shown``."""
    if kind == "file" and not Path(file := name.rpartition(":")[0]).is_file():
        raise NetworkError(f"there is no file {file}: name one as FILE.py:FUNCTION")
    with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
        path = Path(folder) / "network.onnx"
        _in_its_own_process(kind, name, weights, path, shown)
        graph = replace(read_graph(path), name=shown)
    return OnnxNetwork(graph, preprocess, shown)


def _in_its_own_process(kind: str, name: str, weights: str, path: Path, shown: str) -> None:
    command = [sys.executable, "-P", "-m", "secondlook.model.networks.torch_export"]
    ended = subprocess.run(
        [*command, kind, name, weights, str(path), shown],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if ended.returncode == 0 and path.is_file():
        return
    error = path.with_name(f"{path.name}.error")
    if error.is_file():
        raise NetworkError(error.read_text())
    last = next((line.strip() for line in reversed(ended.stderr.splitlines()) if line.strip()), "")
    if "No module named" in last:
        package = last.rpartition(" ")[2].strip("'")
        raise NetworkError(f"{shown} needs the package {package}: install secondlook with the extra lab")
    if ended.returncode == -signal.SIGKILL:
        raise NetworkError(f"{shown} was ended while it was exported, most likely for want of memory: {_ELSEWHERE}")
    why = f"signal {-ended.returncode}" if ended.returncode < 0 else last or f"exit {ended.returncode}"
    raise NetworkError(f"{shown} could not be loaded and exported ({why[:200]}): {_ELSEWHERE}")


_ELSEWHERE = f"export it by hand ({EXPORT}), and give the ONNX file"


def _hub(name: str, preprocess: Given) -> Network:
    folder = Path(name)
    if not folder.is_dir():
        folder = fetched(name)
    if (file := onnx_in(folder)) is not None:
        return _onnx(str(file), preprocess, f"hf:{name}")
    config = json_of(folder / "config.json") if (folder / "config.json").is_file() else {}
    if isinstance(config, dict) and ("pretrained_cfg" in config or "num_features" in config):
        return _by_pytorch("timm", f"local-dir:{folder}", "", f"hf:{name}", preprocess)
    return _by_pytorch("transformers", str(folder), "", f"hf:{name}", preprocess)


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
BACKBONE = Source(
    f"{DEFAULT_BACKBONE} ({', '.join(name.rpartition('-')[2] for name in BACKBONES if name != DEFAULT_BACKBONE)})",
    BACKBONES[DEFAULT_BACKBONE].package,
    _backbone,
)
FUNCTION = Source("FILE.py:FUNCTION", "torch", _exported("file"))
FILES = {
    ".onnx": Source("FILE.onnx", "onnx", _onnx),
    ".safetensors": Source("FILE.safetensors", "torch", _cifar),
}
TABLE = (BACKBONE, FILES[".onnx"], *SCHEMES.values(), FUNCTION, FILES[".safetensors"])
"""All of them, for help and documents."""

_FUNCTION = "FILE.py:FUNCTION that returns the torch.nn.Module with its weights, or an ONNX file ({export})"
_STATE_DICT = (
    "holds weights without the network's code: give torchvision:NAME@{name} or timm:NAME@{name} where it is one of "
    f"theirs, {_FUNCTION}"
)
_TORCHSCRIPT = f"is TorchScript, whose layers cannot be named: give {_FUNCTION}"
_PICKLED = f"is a pickle that would run code ({{inside}}), which is not done here: give {_FUNCTION}"
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
        if (file := onnx_in(path)) is not None:
            return f"{name} is a folder: give {file}"
        if (path / "saved_model.pb").is_file():
            return f"{name} {_TENSORFLOW.replace('FOLDER', name)}"
        return f"{name} is a folder without an ONNX file: give hf:{name} for a model of transformers or timm"
    ending = _ENDINGS.get(path.suffix.lower())
    if ending is _STATE_DICT and name.strip():
        if not path.is_file():
            return f"there is no file {name}: name one of {', '.join(source.form for source in TABLE)}"
        kind, inside = kind_of_checkpoint(path)
        if kind != "state dict":
            ending = _TORCHSCRIPT if kind == "torchscript" else _PICKLED
            return f"{name} {ending.format(name=name, export=EXPORT, inside=inside)}"
    if ending is not None:
        return f"{name} {ending.format(name=name, export=EXPORT)}"
    scheme, colon, rest = name.partition(":")
    if colon and rest:
        near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1)
        if near:
            return f"there is no {scheme}: did you mean {near[0]}:{rest}?"
    if near := difflib.get_close_matches(name.strip().lower(), BACKBONES, 1, 0.8):
        return f"there is no {name}: did you mean {near[0]}?"
    forms = ", ".join(source.form for source in TABLE)
    guess = f"; did you mean torchvision:{name} or timm:{name}?" if path.suffix == "" and not path.parent.name else ""
    return f"{name!r} names no network: give {forms}{guess}"
