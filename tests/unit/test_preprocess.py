"""Preprocessing as each ecosystem writes it, and as one record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.model.errors import NetworkError
from secondlook.model.images import Geometry
from secondlook.model.networks.declared import (
    METADATA,
    class_names,
    of_config,
    of_json,
    of_onnx,
    of_torchvision,
    read_json,
)
from secondlook.model.networks.preprocess import CIFAR, IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess

HALF = (0.5, 0.5, 0.5)
NORMAL = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
FILES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # A file of the user's, of all and of a part of the fields.
    ({"geometry": {"height": 8, "width": 9, "rule": "pad"}}, {"height": 8, "width": 9, "rule": "pad"}, {}),
    (
        {"geometry": {"height": 8, "width": 8}, "arithmetic": {"scale": 1, "channels": "BGR", "layout": "NHWC"}},
        {"height": 8, "width": 8},
        {"scale": 1, "channels": "BGR", "layout": "NHWC"},
    ),
    # timm: config.json of the hub, and what resolve_model_data_config gives.
    (
        {"architecture": "x", "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.95, **NORMAL}},
        {"height": 224, "width": 224, "rule": "crop", "crop_share": 224 / 235, "interpolation": "bicubic"},
        NORMAL,
    ),
    (
        {"input_size": (3, 240, 240), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", **NORMAL},
        {"height": 240, "width": 240, "rule": "squash", "interpolation": "bilinear"},
        NORMAL,
    ),
    (
        {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "border", "mean": HALF, "std": HALF},
        {"height": 64, "width": 64, "rule": "pad", "fill": (128, 128, 128), "interpolation": "bicubic"},
        {"mean": HALF, "std": HALF},
    ),
    # transformers: ViT, CLIP and BiT, ConvNeXt below and above 384, EfficientNet, MobileViT.
    (
        {"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 2, "do_rescale": True,
         "rescale_factor": 1 / 255, "do_normalize": True, "size": {"height": 224, "width": 224},
         "image_mean": HALF, "image_std": HALF},
        {"height": 224, "width": 224, "rule": "squash", "interpolation": "bilinear"},
        {"mean": HALF, "std": HALF},
    ),
    ({"do_resize": True, "size": 224, "resample": 3, "image_mean": HALF, "image_std": HALF},
     {"height": 224, "width": 224, "rule": "squash", "interpolation": "bicubic"}, {"mean": HALF, "std": HALF}),
    (
        {"image_processor_type": "BitImageProcessor", "do_center_crop": True, "size": {"shortest_edge": 256},
         "crop_size": {"height": 224, "width": 224}, "resample": 3, "image_mean": HALF, "image_std": HALF},
        {"height": 224, "width": 224, "rule": "crop", "crop_share": 0.875, "interpolation": "bicubic"},
        {"mean": HALF, "std": HALF},
    ),
    (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875,
         "resample": 3, **{f"image_{name}": value for name, value in NORMAL.items()}},
        {"height": 224, "width": 224, "rule": "crop", "crop_share": 0.875, "interpolation": "bicubic"},
        NORMAL,
    ),
    (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875,
         "resample": 3, "do_normalize": False},
        {"height": 384, "width": 384, "rule": "squash", "interpolation": "bicubic"},
        {},
    ),
    (
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 346, "width": 346},
         "crop_size": {"height": 289, "width": 289}, "do_center_crop": False, "rescale_offset": True,
         "rescale_factor": 1 / 127.5, "do_normalize": False},
        {"height": 346, "width": 346, "rule": "squash"},
        {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)},
    ),
    (
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288}, "do_center_crop": True,
         "crop_size": {"height": 256, "width": 256}, "do_flip_channel_order": True},
        {"height": 256, "width": 256, "rule": "crop", "crop_share": 256 / 288},
        {"channels": "BGR"},
    ),
    ({"do_resize": False, "crop_size": 96, "do_rescale": False}, {"height": 96, "width": 96}, {"scale": 1}),
    # open_clip
    (
        {"model_cfg": {"vision_cfg": {"image_size": 336}}, "preprocess_cfg": {"mean": HALF, "std": HALF}},
        {"height": 336, "width": 336, "rule": "crop", "interpolation": "bicubic"},
        {"mean": HALF, "std": HALF},
    ),
    (
        {"size": [224, 224], "mode": "RGB", "mean": HALF, "std": HALF, "interpolation": "bilinear",
         "resize_mode": "longest", "fill_color": 7},
        {"height": 224, "width": 224, "rule": "pad", "interpolation": "bilinear", "fill": (7, 7, 7)},
        {"mean": HALF, "std": HALF},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "geometry", "arithmetic"), FILES)
def test_every_ecosystems_file_is_read(
    content: dict[str, Any], geometry: dict[str, Any], arithmetic: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    read = read_json(path)
    assert read == Preprocess(
        geometry=Geometry(**geometry), arithmetic=Arithmetic(**arithmetic), read_from="config.json"
    )
    assert Preprocess.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("weights", "side", "rule", "scaled", "interpolation"),
    [
        ("ResNet50_Weights.IMAGENET1K_V2", 224, "crop", 232, "bilinear"),
        ("EfficientNet_B1_Weights.IMAGENET1K_V1", 240, "crop", 256, "bicubic"),
        ("ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", 384, "crop", 384, "bicubic"),
        ("Swin_V2_T_Weights.IMAGENET1K_V1", 256, "crop", 260, "bicubic"),
    ],
)
def test_torchvisions_transforms_are_read(weights: str, side: int, rule: str, scaled: int, interpolation: str) -> None:
    from torchvision.models import get_weight

    read = of_torchvision(get_weight(weights).transforms())
    geometry = read.geometry
    assert (geometry.size, geometry.rule, geometry.scaled, geometry.interpolation) == (
        (side, side),
        rule,
        (scaled, scaled),
        interpolation,
    )
    assert read.arithmetic == Arithmetic(**NORMAL)  # type: ignore[arg-type]


def test_every_torchvision_classifier_is_read() -> None:
    from torchvision.models import get_model_weights, list_models
    from torchvision.transforms._presets import ImageClassification

    for name in list_models():
        for weights in get_model_weights(name):
            if isinstance(transforms := weights.transforms(), ImageClassification):
                assert of_torchvision(transforms).geometry.size == tuple(transforms.crop_size * 2)


def test_an_onnx_files_metadata_is_read() -> None:
    ultralytics = {"imgsz": "[224, 160]", "names": "{0: 'tench', 1: \"horse's\"}", "task": "classify"}
    read = of_onnx(ultralytics, None, "a.onnx")
    assert read is not None
    assert read.geometry == Geometry(height=224, width=160)
    assert read.arithmetic == Arithmetic()
    assert class_names(ultralytics) == ("tench", "horse's")
    assert of_onnx({"producer": "x"}, (8, 8), "a.onnx") is None
    own = of_onnx({METADATA: CIFAR.model_dump_json()}, None, "a.onnx")
    assert own is not None
    assert (own.geometry, own.arithmetic) == (CIFAR.geometry, CIFAR.arithmetic)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["a", "b"]', ("a", "b")),
        ("a,b", ("a", "b")),
        ("a\nb\n", ("a", "b")),
        ('{"1": "b", "0": "a"}', ("a", "b")),
        ("{0: 'a', 2: 'b'}", None),
        ("['a', 3]", None),
        ("(((((", None),
    ],
)
def test_class_names_are_read_as_people_write_them(text: str, names: tuple[str, ...] | None) -> None:
    assert class_names({"classes": text}) == names


def test_class_names_of_a_configuration_are_read() -> None:
    assert of_config({"id2label": {"0": "cat", "1": "dog"}}) == ("cat", "dog")
    assert of_config({"label_names": ["n01"], "label_descriptions": {"n01": "tench"}}) == ("tench",)
    assert of_config({"num_classes": 10}) is None


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_arithmetic_is_what_it_says(channels: Any, layout: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    arithmetic = Arithmetic(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channels=channels, layout=layout)
    seen = arithmetic.apply(images)
    assert seen.dtype == np.float32
    seen = seen.transpose(0, 2, 3, 1) if layout == "NCHW" else seen
    order = [0, 1, 2] if channels == "RGB" else [2, 1, 0]
    expected = (images[..., order] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_the_cifar_family_takes_pixels_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(CIFAR.arithmetic.apply(images), images)
    assert CIFAR.arithmetic.is_plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "no JSON object"),
        ({}, "holds no preprocessing"),
        ({"geometry": {"height": 8}}, "geometry.width: Field required"),
        ({"geometry": {"height": 8, "width": 8, "shorter": 9}}, "geometry.shorter"),
        ({"geometry": {"height": 8, "width": 8}, "arithmetic": {"mean": 0.5}}, "arithmetic.mean"),
        ({"geometry": {"height": 8, "width": 8}, "arithmetic": {"std": [0, 1, 1]}}, "above 0"),
        ({"geometry": "crop"}, "geometry"),
        ({"do_resize": True}, "at which size"),
        ({"do_resize": True, "size": {"height": "many", "width": 3}}, "cannot be read"),
        ({"input_size": [1, 28, 28], "crop_pct": 1.0}, "1 channels"),
        ({"input_size": 224, "crop_pct": 1.0}, "cannot be read"),
        ({"input_size": [3, 8, 8], "crop_pct": 1.0, "interpolation": "cubic"}, "geometry.interpolation"),
    ],
)
def test_what_is_no_preprocessing_gets_one_sentence(content: object, said: str) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        of_json(content, "config.json")
    assert "--preprocess" in str(caught.value) or "colour" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_json_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("mean 0.5")
    with pytest.raises(NetworkError, match="is not JSON"):
        read_json(tmp_path / "text.json")


def test_records_are_said_in_few_words() -> None:
    assert str(Arithmetic(**NORMAL)) == "RGB, (x/255 - .485 .456 .406) / .229 .224 .225"  # type: ignore[arg-type]
    assert str(Arithmetic(scale=1, mean=(127, 127, 127), std=(128, 128, 128))) == "RGB, (x - 127) / 128"
    assert str(Geometry(height=224, width=224, crop_share=0.875)) == "224 x 224, crop .875, bilinear"


def test_the_mirrored_copy_is_asked_where_a_file_says_so_and_not_in_records_from_before() -> None:
    geometry = {"height": 224, "width": 224, "rule": "squash"}
    before, now = of_json({"geometry": geometry}, "a.json"), of_json({"geometry": geometry, "mirrored": True}, "a.json")
    assert (before.mirrored, now.mirrored) == (False, True)
    assert now.work == 2 * before.work
    assert (before.views, now.views) == (
        "224 x 224, squash, bilinear",
        "224 x 224, squash, bilinear, mean with the mirrored photo",
    )
    record = now.model_dump(mode="json")
    assert Preprocess.model_validate(record) == now
    del record["mirrored"]
    assert not Preprocess.model_validate(record).mirrored
