"""PyTorch modules by name: of torchvision, timm, transformers, or of a function in a file of the user's.

Read in a process of its own only (``torch_export``): a user's file finds the packages beside it, whatever they are
called. Weights are downloaded or read by the library that the network is of; no pickle is run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secondlook.model.errors import NetworkError
from secondlook.model.networks.declared import of_compose, of_config, of_json, of_timm, of_torchvision, read_json
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.user_file import given_by

_HEADS = ("fc.weight", "head.weight", "classifier.weight", "heads.head.weight", "head.fc.weight")


class Loaded(NamedTuple):
    """A module in evaluation mode, and what is known of it."""

    module: nn.Module
    preprocess: Preprocess | None
    classes: tuple[str, ...] | None


def load_torchvision(name: str, weights: str) -> Loaded:
    """Of torchvision.models: default weights, others by name, or a checkpoint."""
    from torchvision import models
    from torchvision.models import get_model, get_model_weights, list_models

    classifiers = list_models(module=models)
    if name not in classifiers:
        if name in list_models():
            raise NetworkError(
                f"torchvision:{name} does not classify images: name a classifier, such as torchvision:resnet50, or "
                "give FILE.py:FUNCTION that returns its backbone"
            )
        raise NetworkError(_unknown("torchvision", name, classifiers))
    known = get_model_weights(name)
    entry = known.__members__.get(weights or "DEFAULT")
    if weights and entry is None and not Path(weights).exists():
        names = ", ".join(list(known.__members__)[:5])
        raise NetworkError(f"torchvision:{name}@{weights} is neither a file nor one of its weights: choose {names}")
    if entry is not None:
        module = get_model(name, weights=entry)
        return Loaded(
            module, of_torchvision(entry.transforms(), f"{entry} .transforms()"), tuple(entry.meta["categories"])
        )
    tensors = read_checkpoint(Path(weights))
    module = get_model(name, weights=None, **_with_classes(tensors))
    default = known.__members__.get("DEFAULT")
    like = None if default is None else of_torchvision(default.transforms(), f"{default}.transforms()")
    return Loaded(_filled(module, tensors, name, weights), like, None)


def load_timm(name: str, weights: str) -> Loaded:
    """Of timm: its pretrained weights, or a checkpoint."""
    import timm
    from timm.data import resolve_model_data_config

    if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name):
        raise NetworkError(_unknown("timm", name, timm.list_models()))
    if weights:
        tensors = read_checkpoint(Path(weights))
        module = _filled(timm.create_model(name, **_with_classes(tensors)), tensors, name, weights)
    else:
        if not name.startswith(("hf-hub:", "local-dir:")) and not timm.models.is_model_pretrained(name):
            raise NetworkError(f"timm has no weights for {name}: give a file of yours, as timm:{name}@FILE")
        module = timm.create_model(name, pretrained=True)
    config = resolve_model_data_config(module)
    read_from = "config.json" if name.startswith("local-dir:") else f"timm's pretrained_cfg of {name}"
    return Loaded(module, of_timm(config, read_from), _timm_classes(module))


def load_transformers(name: str, weights: str) -> Loaded:
    """Of transformers, by a repository's name or a local folder."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(name)
    made = tuple(getattr(config, "architectures", None) or ())
    if other := [kind for kind in made if _OTHER_TASKS.search(kind)]:
        raise NetworkError(
            f"it is made for another task ({other[0]}): name a repository with a classifier or a backbone for images"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"it has no preprocessor_config.json, so it is no network for images ({config.model_type}): name another "
            "repository, or give FILE.py:FUNCTION that returns the module and its preprocessing"
        ) from error
    is_classifier = any("ImageClassification" in kind for kind in made)
    kind = AutoModelForImageClassification if is_classifier else AutoModel
    try:
        module = kind.from_pretrained(name, attn_implementation="eager")
    except ValueError:  # it knows no such thing
        module = kind.from_pretrained(name)
    classes = of_config({"id2label": config.id2label}) if is_classifier else None
    declared = of_json(processor.to_dict(), "preprocessor_config.json")
    return Loaded(TransformersModule(getattr(module, "vision_model", module)), declared, classes)


_OTHER_TASKS = re.compile("Detection|Segmentation|Depth|CausalLM|Conditional|MaskedLM|Sequence|Token|Question")


def load_file(name: str, weights: str) -> Loaded:
    """What a function in a file of the user's gives: a module, (module, preprocessing), or with class names third."""
    module, declared, classes = given_by(name)
    for attribute in ("classes", "class_names", "categories"):
        found = getattr(module, attribute, None)
        if classes is None and isinstance(found, list | tuple) and all(isinstance(label, str) for label in found):
            classes = found
    if classes is not None and not isinstance(classes, list | tuple):
        raise NetworkError(f"{name} returns {type(classes).__name__} for class names: return a list of them")
    return Loaded(module, _declared(declared, name), None if classes is None else tuple(map(str, classes)))


LOADERS: dict[str, Callable[[str, str], Loaded]] = {
    "torchvision": load_torchvision,
    "timm": load_timm,
    "transformers": load_transformers,
    "file": load_file,
}


class TransformersModule(nn.Module):
    """A module of transformers that gives tensors in place of its output's record."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits, or without a head the pooled output, if there is one, and the tokens."""
        made = self.module(pixel_values=pixel_values)
        if (logits := getattr(made, "logits", None)) is not None:
            return logits  # type: ignore[no-any-return]
        found = (getattr(made, name, None) for name in ("pooler_output", "last_hidden_state"))
        return tuple(tensor for tensor in found if tensor is not None)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing in it is run.

    Raises:
        NetworkError: there is none, or it holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise NetworkError(f"there is no file {path}") from error
    except Exception as error:  # pickle's, zip's, safetensors'
        raise NetworkError(
            f"{path.name} holds more than tensors, or is damaged: save module.state_dict() with torch.save, or give "
            "FILE.py:FUNCTION that returns the module"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise NetworkError(f"{path.name} holds no state dict: save module.state_dict() with torch.save")
    if not any(str(name).startswith("module.") for name in found):
        return found  # with the versions of its parts
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _filled(module: nn.Module, tensors: dict[str, Tensor], name: str, weights: str) -> nn.Module:
    try:
        module.load_state_dict(tensors)
    except (RuntimeError, ValueError, KeyError) as error:
        wrong = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise NetworkError(f"{Path(weights).name} does not hold the weights of {name} ({wrong[:150]})") from error
    return module


def _with_classes(tensors: dict[str, Tensor]) -> dict[str, int]:
    matrices = [
        name for name in tensors if name in _HEADS or (name.startswith("classifier.") and tensors[name].ndim >= 2)
    ]
    return {"num_classes": len(tensors[matrices[-1]])} if matrices else {}


def _timm_classes(module: nn.Module) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = getattr(module, "pretrained_cfg", {}) or {}
    if (names := of_config(config)) is not None:
        return names
    subset = infer_imagenet_subset(module)
    if not subset:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i).partition(",")[0] for i in range(info.num_classes()))


def _declared(given: object, name: str) -> Preprocess | None:
    """Preprocessing in any of the forms in which people have it."""
    if given is None:
        return None
    if isinstance(given, str | Path):
        return read_json(Path(given))
    if isinstance(given, dict):
        return of_json(given, f"what {name} returns")
    if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return of_torchvision(given, f"the transforms that {name} returns")
    if hasattr(given, "transforms"):
        return of_compose(given, f"the transforms that {name} returns")
    if hasattr(given, "to_dict"):
        return of_json(given.to_dict(), f"the processor that {name} returns")
    raise NetworkError(
        f"{name} returns a preprocessing that cannot be read ({type(given).__name__}): return a dict such as "
        '{"geometry": {"height": 224, "width": 224}, "arithmetic": {}}, or torchvision\'s transforms'
    )


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 3) or known[:3]
    return f"{library} has no network {name!r}: did you mean {' or '.join(f'{library}:{one}' for one in near)}?"
