"""Architectures of torchvision and timm, with random weights: layers are found, encoders exported and proven."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.images import Geometry
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import open_onnx
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess
from secondlook.model.networks.recipe import Recipe

pytestmark = pytest.mark.networks

TORCHVISION = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "resnext50_32x4d": 2048,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "swin_v2_t": 768,
    "vit_b_16": 768,
}
TIMM = {
    "vit_tiny_patch16_224": 192,
    "deit_tiny_distilled_patch16_224": 192,
    "beit_base_patch16_224": 768,
    "cait_xxs24_224": 192,
    "coat_lite_tiny": 320,
    "convmixer_768_32": 768,
    "convnextv2_atto": 320,
    "efficientvit_b0": 1024,
    "ghostnet_100": 1280,
    "levit_128s": 384,
    "maxvit_tiny_tf_224": 512,
    "mixer_s32_224": 512,
    "mobileone_s0": 1024,
    "mobilevit_xxs": 320,
    "nfnet_l0": 2304,
    "pvt_v2_b0": 256,
    "resmlp_12_224": 384,
    "tf_efficientnet_lite0": 1280,
}


@pytest.mark.parametrize(("name", "wide"), [*TORCHVISION.items(), *((f"timm:{n}", w) for n, w in TIMM.items())])
def test_it_is_found_exported_and_proven(name: str, wide: int, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from secondlook.model.networks.torch_export import export
    from secondlook.model.networks.torch_load import Loaded

    torch.manual_seed(0)
    side = 256 if "mobilevit" in name else 224
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as on how weights begin
        if name.startswith("timm:"):
            module = pytest.importorskip("timm").create_model(name.removeprefix("timm:"), pretrained=False)
        else:
            from torchvision.models import get_model

            module = get_model(name, weights=None)
    for part in module.modules():  # some heads begin as zeros, and so would say nothing
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.02)
    module.eval()
    arithmetic = Arithmetic(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    preprocess = Preprocess(geometry=Geometry(height=side, width=side), arithmetic=arithmetic, read_from="test")
    export(Loaded(module, preprocess, None), path := tmp_path / "network.onnx")
    network = open_onnx(path)
    images = network.probe(5)
    with torch.inference_mode():
        expected = module(torch.from_numpy(arithmetic.apply(images))).numpy()
    logits = network.activations(images).logits
    assert logits is not None
    np.testing.assert_allclose(logits, expected, atol=1e-3 * max(1.0, np.abs(expected).max()))
    layers = network.layers()
    assert len(layers) > 5
    assert layers[network.default_layer].channels == wide
    export_encoder(network, default_recipe(network), tmp_path / "encoder.onnx", images)
    maps = [layer for layer, what in layers.items() if what.kind != "vector"]
    middle = maps[len(maps) // 2]
    recipe = Recipe(layers=(middle, network.default_layer), pool=("mean", default_recipe(network).pool[0]))
    export_encoder(network, recipe, tmp_path / "encoder.onnx", images)
