"""Preprocessing as each ecosystem keeps it, read into one record.

timm's ``pretrained_cfg``, the ``preprocessor_config.json`` of Hugging Face's transformers, torchvision's
``weights.transforms()``, open_clip's ``preprocess_cfg``, an ONNX file's ``metadata_props``, and JSON files that hold
one of these or the record itself.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secondlook.model.errors import NetworkError
from secondlook.model.images.geometry import Geometry, Interpolation
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess

Size = tuple[int, int]
"""Height and width."""
Config = Mapping[str, Any]

USUAL_SIZE = (224, 224)
METADATA = "secondlook.preprocess"
"""The key of an ONNX file's metadata under which this project keeps the record."""

_RESAMPLE: dict[int, Interpolation] = dict(enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")))
"""Pillow's numbers, which transformers writes."""
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def assumed(size: Size = USUAL_SIZE) -> Preprocess:
    """What most networks take, for one of which nobody said anything."""
    geometry = Geometry(height=size[0], width=size[1], crop_share=0.875, interpolation="bilinear")
    return Preprocess(geometry=geometry, arithmetic=Arithmetic(mean=IMAGENET_MEAN, std=IMAGENET_STD))


def of_timm(config: Config, read_from: str = "timm's pretrained_cfg") -> Preprocess:
    """Of timm's ``pretrained_cfg``, or of what ``resolve_model_data_config`` gives."""
    channels, height, width = config.get("input_size", (3, *USUAL_SIZE))
    if channels != 3:
        raise NetworkError(f"the network takes images of {channels} channels, not of 3: give one for colour images")
    share = float(config.get("crop_pct") or 0.875)
    mode = config.get("crop_mode") or "center"
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    fields: dict[str, Any] = {"rule": "pad" if mode == "border" else "squash" if mode == "squash" else "crop"}
    if mode == "border":
        fields["fill"] = tuple(round(255 * value) for value in mean)
    else:
        fields["crop_share"] = height / floor(height / share)
    interpolation = config.get("interpolation") or "bicubic"
    return _made(
        read_from,
        {"height": height, "width": width, "interpolation": _named(interpolation), **fields},
        {"mean": mean, "std": std},
    )


def of_torchvision(transforms: object, read_from: str = "torchvision's weights.transforms()") -> Preprocess:
    """Of torchvision's preset ``ImageClassification``."""
    crop, resize = getattr(transforms, "crop_size", None), getattr(transforms, "resize_size", None)
    interpolation = getattr(transforms, "interpolation", None)
    if crop is None or resize is None or interpolation is None:
        raise NetworkError(f"{read_from} is no preset for classification: give --preprocess FILE.json")
    height, width = (crop[0], crop[0]) if len(crop) == 1 else crop
    is_squash = len(resize) == 2
    return _made(
        read_from,
        {
            "height": height,
            "width": width,
            "rule": "squash" if is_squash else "crop",
            "crop_share": min(height, width) / min(resize),
            "interpolation": str(getattr(interpolation, "value", interpolation)),
        },
        {"mean": getattr(transforms, "mean", IMAGENET_MEAN), "std": getattr(transforms, "std", IMAGENET_STD)},
    )


def of_compose(transforms: object, read_from: str) -> Preprocess:
    """Of torchvision's ``Compose`` of Resize, CenterCrop, ToTensor and Normalize, as most people write it.

    Raises:
        NetworkError: there is something else in it, or no size.
    """
    scaled: list[int] = []
    crop: list[int] = []
    geometry: dict[str, Any] = {}
    arithmetic: dict[str, Any] = {}
    for step in getattr(transforms, "transforms", ()):
        match type(step).__name__:
            case "Resize":
                scaled = _sides(step.size)
                geometry["rule"] = "crop" if isinstance(step.size, int) or len(step.size) == 1 else "squash"
                geometry["interpolation"] = str(getattr(step.interpolation, "value", step.interpolation))
            case "CenterCrop":
                crop = _sides(step.size)
            case "Normalize":
                arithmetic = {"mean": tuple(step.mean), "std": tuple(step.std)}
            case "ToTensor" | "ToImage" | "PILToTensor" | "ConvertImageDtype" | "ToDtype" | "MaybeToTensor":
                pass
            case other:
                raise NetworkError(f"{read_from} have a step that is not known ({other}): {_HELP}")
    size = crop or scaled
    if not size:
        raise NetworkError(f"{read_from} do not say at which size the network takes images: {_HELP}")
    if scaled:
        geometry["crop_share"] = min(1.0, size[0] / scaled[0])
    return _made(read_from, {"height": size[0], "width": size[1], **geometry}, arithmetic)


def _sides(size: Any) -> list[int]:
    sides = [size] if isinstance(size, int) else list(size)
    return sides * 2 if len(sides) == 1 else sides


def of_transformers(config: Config, read_from: str = "preprocessor_config.json") -> Preprocess:
    """Of an image processor of transformers."""
    size, crop = _edges(config.get("size")), _edges(config.get("crop_size"))
    fields: dict[str, Any] = {"interpolation": _RESAMPLE.get(config.get("resample", 2), "bilinear")}
    does_crop = bool(config.get("do_center_crop", False)) and crop is not None
    if config.get("do_resize", True) and size is not None:
        kind, scaled = size
        if (share := config.get("crop_pct")) and kind == "shortest" and not does_crop:  # ConvNeXt's processor
            target = scaled
            if scaled[0] >= 384:
                kind = "both"
            else:
                scaled = (int(scaled[0] / share),) * 2
        else:
            target = crop[1] if does_crop and crop is not None else scaled
        fields["rule"] = {"shortest": "crop", "both": "squash", "longest": "pad"}[kind]
        if fields["rule"] != "pad":
            fields["crop_share"] = min(1.0, target[0] / scaled[0])
    elif crop is not None:
        target = crop[1]
    else:
        raise NetworkError(f"{read_from} does not say at which size the network takes images: give --preprocess")
    fields["height"], fields["width"] = target
    arithmetic: dict[str, Any] = {"scale": 1.0}
    if config.get("do_rescale", True):
        arithmetic["scale"] = config.get("rescale_factor", 1 / 255)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", "image_mean" in config):
        mean, std = config.get("image_mean", IMAGENET_MEAN), config.get("image_std", IMAGENET_STD)
    if config.get("rescale_offset"):
        mean = tuple(value + 1 for value in mean)
    if config.get("do_flip_channel_order"):
        arithmetic["channels"] = "BGR"
    return _made(read_from, fields, {**arithmetic, "mean": mean, "std": std})


def of_open_clip(config: Config, size: Size | None = None, read_from: str = "open_clip's preprocess_cfg") -> Preprocess:
    """Of open_clip's ``preprocess_cfg``, whose size may stand elsewhere (``image_size`` of ``vision_cfg``)."""
    edge = config.get("size", size) or USUAL_SIZE
    height, width = (edge, edge) if isinstance(edge, int) else edge
    mode = config.get("resize_mode", "shortest")
    fill = config.get("fill_color", 0)
    return _made(
        read_from,
        {
            "height": height,
            "width": width,
            "rule": {"longest": "pad", "squash": "squash"}.get(mode, "crop"),
            "interpolation": _named(config.get("interpolation", "bicubic")),
            "fill": (fill,) * 3 if isinstance(fill, int) else fill,
        },
        {"mean": config.get("mean", _CLIP_MEAN), "std": config.get("std", _CLIP_STD)},
    )


def of_onnx(metadata: Mapping[str, str], size: Size | None, read_from: str) -> Preprocess | None:
    """Of an ONNX file's ``metadata_props``; None where they say nothing of it."""
    if (own := metadata.get(METADATA)) is not None:
        return of_json(literal(own), read_from)
    if "imgsz" in metadata and "names" in metadata:  # ultralytics
        edge = literal(metadata["imgsz"])
        edge = [edge, edge] if isinstance(edge, int) else edge
        height, width = size or edge
        return _made(
            f"{read_from}: imgsz, as ultralytics writes it",
            {"height": height, "width": width, "interpolation": "bilinear"},
            {},
        )
    return None


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Of an ONNX file's ``metadata_props``, in the order of its logits; None where they name none."""
    for key in ("names", "class_names", "classes", "labels", "categories", "id2label"):
        if key in metadata:
            found = literal(metadata[key])
            if (names := _ordered(found)) is not None:
                return names
    return None


def of_config(config: Config) -> tuple[str, ...] | None:
    """Class names of a ``config.json`` as transformers and timm write it."""
    if (names := _ordered(config.get("id2label"))) is not None:
        return names
    labels = config.get("label_names")
    described = config.get("label_descriptions") or {}
    return tuple(str(described.get(name, name)) for name in labels) if labels else None


def of_json(content: object, read_from: str, size: Size | None = None) -> Preprocess:
    """Of what a JSON file holds: the record itself, or a configuration of timm, transformers or open_clip.

    Raises:
        NetworkError: it is none of them, or one that cannot be.
    """
    if not isinstance(content, dict):
        raise NetworkError(f"{read_from} holds no preprocessing: it is no JSON object; {_HELP}")
    try:
        found = _of_object(content, read_from, size)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, IndexError) as error:
        raise NetworkError(f"the preprocessing in {read_from} cannot be read: {_HELP}") from error
    if found is None:
        raise NetworkError(f"{read_from} holds no preprocessing: {_HELP}")
    return found


def _of_object(content: Config, read_from: str, size: Size | None) -> Preprocess | None:
    if "geometry" in content or "arithmetic" in content:
        fields = {**content, "read_from": content.get("read_from") or read_from}
        geometry = fields.get("geometry") or {}
        if size is not None and isinstance(geometry, dict):
            fields["geometry"] = {"height": size[0], "width": size[1], **geometry}
        return _validated(Preprocess, fields, read_from)
    if isinstance(nested := content.get("pretrained_cfg"), dict):
        return of_timm(nested, read_from)
    if isinstance(nested := content.get("preprocess_cfg"), dict):
        model = content.get("model_cfg") or {}
        edge = (model.get("vision_cfg") or {}).get("image_size")
        return of_open_clip(nested, (edge, edge) if isinstance(edge, int) else edge or size, read_from)
    if {"image_processor_type", "feature_extractor_type", "image_mean", "do_resize"} & content.keys():
        return of_transformers(content, read_from)
    if {"crop_pct", "input_size"} & content.keys():
        return of_timm(content, read_from)
    if {"mean", "std", "resize_mode"} <= content.keys():
        return of_open_clip(content, size, read_from)
    return None


def read_json(path: Path, size: Size | None = None) -> Preprocess:
    """``of_json`` of a file.

    Raises:
        NetworkError: there is none, or it holds no preprocessing.
    """
    return of_json(json_of(path), path.name, size)


def json_of(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        NetworkError: there is none, or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise NetworkError(f"{path} cannot be read ({error.strerror}): {_HELP}") from error
    except ValueError as error:
        raise NetworkError(f"{path} is not JSON ({error}): {_HELP}") from error


_HELP = (
    'write {"geometry": {"height": 224, "width": 224, "crop_share": 0.875}, '
    '"arithmetic": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}, with your values, '
    "to a file for --preprocess"
)


def literal(text: str) -> Any:
    """A value as JSON or as Python writes it; the text itself where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text


def _ordered(found: object) -> tuple[str, ...] | None:
    if isinstance(found, str) and any(mark in found for mark in "\n,"):
        found = [part.strip() for part in found.replace("\n", ",").split(",") if part.strip()]
    if isinstance(found, dict):
        try:
            by_index = {int(index): str(name) for index, name in found.items()}
        except ValueError:
            return None
        if sorted(by_index) != list(range(len(by_index))):
            return None
        return tuple(by_index[index] for index in range(len(by_index))) or None
    if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
        return tuple(found)
    return None


def _edges(size: object) -> tuple[str, Size] | None:
    """How transformers says a size: which of an image's sides, and the height and width that follow."""
    if isinstance(size, int):
        return "both", (size, size)
    if isinstance(size, list | tuple) and len(size) == 2:
        return "both", (int(size[0]), int(size[1]))
    if isinstance(size, dict):
        if "height" in size and "width" in size:
            return "both", (int(size["height"]), int(size["width"]))
        if "shortest_edge" in size:
            return "shortest", (int(size["shortest_edge"]),) * 2
        if "longest_edge" in size:
            return "longest", (int(size["longest_edge"]),) * 2
    return None


def _named(interpolation: str) -> str:
    return "bilinear" if interpolation == "random" else interpolation


def _made(read_from: str, geometry: Mapping[str, Any], arithmetic: Mapping[str, Any]) -> Preprocess:
    fields = {"geometry": dict(geometry), "arithmetic": dict(arithmetic), "read_from": read_from}
    return _validated(Preprocess, fields, read_from)


def _validated(record: type[Preprocess], fields: Mapping[str, Any], read_from: str) -> Preprocess:
    try:
        return record.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise NetworkError(f"the preprocessing in {read_from} is none ({said}): {_HELP}") from error
