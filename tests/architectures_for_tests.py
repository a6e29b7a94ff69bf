"""One network, found, exported and proven in a process of its own: ``python -m tests.architectures_for_tests NAME``.

It prints a line of JSON; with several names, or none (all of them), a table.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 2
HANGS_AFTER = 300
"""Seconds. Each takes far less; a machine with other work may need them."""

TORCHVISION = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "swin_v2_t": 768,
    "vit_b_32": 768,
}
"""Numbers at each position of the layer that the head reads, as the architectures' papers have them."""
TIMM = {
    "vit_tiny_patch16_224": 192,
    "deit_tiny_distilled_patch16_224": 192,
    "cait_xxs24_224": 192,
    "coat_lite_tiny": 320,
    "convnextv2_atto": 320,
    "efficientvit_b0": 1280,
    "ghostnet_100": 1280,
    "levit_128s": 384,
    "mixer_s32_224": 512,
    "mobileone_s0": 1024,
    "mobilevit_xxs": 320,
    "nfnet_l0": 2304,
    "pvt_v2_b0": 256,
    "resmlp_12_224": 384,
    "tf_efficientnet_lite0": 1280,
}
SIDES = {"inception_v3": 299, "timm:mobilevit_xxs": 256, "keras:mobilenet": 96}


class Source(NamedTuple):
    """A network as its own library runs it."""

    side: int
    write: Callable[[Path], None]
    """An ONNX file."""
    expected: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Logits of images (B,H,W,3)."""


def of_pytorch(name: str) -> Source:
    """Of torchvision or timm, with random weights, exported by this project."""
    from secondlook.model.networks.torch_export import export
    from secondlook.model.networks.torch_load import Loaded

    module, preprocess = _module(name)
    return Source(
        preprocess.geometry.height,
        lambda path: export(Loaded(module, preprocess, None), path),
        lambda images: _says(module, preprocess.arithmetic.apply(images)),
    )


def by_hand(how: str) -> Source:
    """ResNet-18 and ViT, as people export them: ``old``, ``old-fixed``, ``dynamo``, ``dynamo-fixed`` ..."""
    import torch

    exporter, _, name = how.partition("-")
    is_fixed = name.startswith("fixed-")
    module, preprocess = _module(name.removeprefix("fixed-"))
    images = (torch.zeros(1 if is_fixed else 2, 3, preprocess.geometry.height, preprocess.geometry.width),)

    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if exporter == "old":
                axes = None if is_fixed else {"input": {0: "batch"}, "logits": {0: "batch"}}
                torch.onnx.export(
                    module, images, str(path), dynamo=False, input_names=["input"], output_names=["logits"],
                    dynamic_axes=axes, opset_version=11 if name.endswith("resnet18") else 14,
                )  # fmt: skip
            else:
                shapes = None if is_fixed else ({0: "batch"},)
                torch.onnx.export(module, images, str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)

    return Source(preprocess.geometry.height, write, lambda taken: _says(module, preprocess.arithmetic.apply(taken)))


def of_keras(name: str) -> Source:
    """A model of Keras on PyTorch, by its own exporter: NHWC."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    side = SIDES.get(f"keras:{name}", 64)
    if name == "mobilenet":
        module = keras.applications.MobileNetV2((side, side, 3), alpha=0.35, weights=None, classes=40)
    else:
        layers = keras.layers
        module = keras.Sequential(
            [
                layers.Input((side, side, 3)),
                layers.Rescaling(1 / 127.5, offset=-1),
                layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.Conv2D(32, 3, strides=2, padding="same", activation="swish"),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.5),
                layers.Dense(7, activation="softmax"),
            ]
        )
    module(np.zeros((1, side, side, 3), np.float32))

    def expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities = keras.ops.convert_to_numpy(module(_preprocess(side, "NHWC").arithmetic.apply(images)))
        return np.log(probabilities)

    return Source(side, lambda path: module.export(str(path), format="onnx", verbose=False), expected)


def huge(name: str) -> Source:
    """A graph with 2.1 GB of random weights in files beside it, more than a protobuf holds."""
    import onnxruntime
    from onnx import TensorProto

    from tests.networks_for_tests import SIDE, Builder, written

    wide, deep = 8192, 8
    written_to: list[Path] = []

    def write(path: Path) -> None:
        random = np.random.default_rng(0)
        build = Builder()
        tensor = build.node("Relu", build.node("MatMul", build.pooled(build.trunk("image")), build.random(24, wide)))
        for layer in range(deep):
            with (path.parent / f"{layer}.data").open("wb") as file:
                for _ in range(8):
                    random.normal(0, (2 / wide) ** 0.5, (wide // 8, wide)).astype(np.float32).tofile(file)
            stub = TensorProto(name=f"matrix_{layer}", data_type=TensorProto.FLOAT, dims=(wide, wide))
            stub.data_location = TensorProto.EXTERNAL
            stub.external_data.add(key="location", value=f"{layer}.data")
            build.weights.append(stub)
            tensor = build.node("Relu", build.node("MatMul", tensor, stub.name))
        written(build.model(outputs=[build.head(tensor, wide)]), path.parent, path.stem)
        written_to.append(path)

    def expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy
        session = onnxruntime.InferenceSession(str(written_to[0]), options, ["CPUExecutionProvider"])
        return session.run(None, {"image": _preprocess(SIDE).arithmetic.apply(images)})[0]

    return Source(SIDE, write, expected)


KINDS: dict[str, Callable[[str], Source]] = {
    "torchvision": of_pytorch,
    "timm": of_pytorch,
    "exported": by_hand,
    "keras": of_keras,
    "random": huge,
}
EXPORTED = {
    **{f"exported:{how}-resnet18": 512 for how in ("old", "old-fixed", "dynamo", "dynamo-fixed")},
    **{f"exported:{how}-vit_b_32": 768 for how in ("old-fixed", "dynamo-fixed")},
    "keras:small": 32,
    "keras:mobilenet": 1280,
    "random:2.1 GB": 8192,
}
ALL = {
    **{f"torchvision:{name}": wide for name, wide in TORCHVISION.items()},
    **{f"timm:{name}": wide for name, wide in TIMM.items()},
    **EXPORTED,
}


def run(name: str) -> dict[str, Any]:
    """What its own process says of it; ``error`` where it failed."""
    command = [sys.executable, "-m", "tests.architectures_for_tests", name]
    # Two at once: a thread each.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER, env=environment)
    except subprocess.TimeoutExpired:
        return {"name": name, "error": f"not done after {HANGS_AFTER} s"}
    if ended.returncode:
        return {"name": name, "error": ended.stderr.strip()[-1500:] or f"exit {ended.returncode}"}
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def prove(name: str) -> dict[str, Any]:
    """The one body: layers are found, encoders exported, and one image = each of five = the network in its library.

    Raises:
        AssertionError: they are not.
    """
    from secondlook.model.networks.encoder_graph import export_encoder
    from secondlook.model.networks.network import default_recipe
    from secondlook.model.networks.onnx_network import open_onnx
    from secondlook.model.networks.recipe import Recipe

    begun = time.monotonic()
    kind, _, rest = name.partition(":")
    source = KINDS[kind](name if kind in ("torchvision", "timm") else rest)
    with tempfile.TemporaryDirectory() as folder:
        source.write(path := Path(folder) / "network.onnx")
        written_after = time.monotonic() - begun
        declared = (
            None if kind in ("torchvision", "timm") else _preprocess(source.side, "NHWC" if kind == "keras" else "NCHW")
        )
        network = open_onnx(path, declared)
        images = network.probe(5)
        expected = source.expected(images)
        largest = float(np.abs(expected).max())
        logits = network.activations(images).logits
        assert logits is not None, f"no head is found, the default layer is {network.default_layer}"
        ours = _log_softmax(logits) if kind == "keras" else logits
        difference = float(np.abs(ours - expected).max()) / largest
        assert difference <= 1e-3, f"logits differ by {difference:.2g} of the largest"
        layers = network.layers()
        default = layers[network.default_layer]
        assert default.channels == ALL[name], f"the default layer is {network.default_layer}, {default}"
        recipe = default_recipe(network)
        export_encoder(network, recipe, Path(folder) / "encoder.onnx", images)
        maps = [layer for layer, what in layers.items() if what.kind != "vector"]
        middle = Recipe(layers=(maps[len(maps) // 2], network.default_layer), pool=("mean", recipe.pool[0]))
        export_encoder(network, middle, Path(folder) / "encoder.onnx", images)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "name": name,
        "layers": len(layers),
        "default": f"{network.default_layer}, {default}",
        "difference": difference,
        "written_s": round(written_after, 1),
        "seconds": round(time.monotonic() - begun, 1),
        "peak_mb": peak // 1024,
    }


def table(names: list[str]) -> int:
    """Print a row for each; how many failed."""
    print("| network | layers | the head reads | largest difference | seconds | peak MB |\n|---|---|---|---|---|---|")
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for said in pool.map(run, names):
            if "error" in said:
                failed += 1
                print(f"| {said['name']} | **fails**: {said['error'].splitlines()[-1]} | | | | |", flush=True)
                continue
            row = (said["layers"], said["default"], f"{said['difference']:.1g}", said["seconds"], said["peak_mb"])
            print(f"| {said['name']} | {' | '.join(map(str, row))} |", flush=True)
    return failed


def _module(name: str) -> tuple[Any, Any]:
    """A module of that name with random weights, and how it takes images."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    library, _, rest = name.rpartition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as on how weights begin
        if library == "timm":
            import timm

            module = timm.create_model(rest, pretrained=False)
        else:
            from torchvision.models import get_model

            module = get_model(rest, weights=None, **QUICK.get(rest, {}))
    for part in module.modules():  # some heads begin as zeros, and so would say nothing
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.02)
    return module.eval(), _preprocess(SIDES.get(name if library == "timm" else rest, 224))


QUICK = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}
"""Their own way to draw weights takes half a minute."""


def _preprocess(side: int, layout: str = "NCHW") -> Any:
    from secondlook.model.images import Geometry
    from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess

    arithmetic = Arithmetic.model_validate({"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "layout": layout})
    return Preprocess(geometry=Geometry(height=side, width=side), arithmetic=arithmetic, read_from="test")


def _says(module: Any, images: NDArray[np.float32]) -> Any:
    import torch

    with torch.inference_mode():
        return module(torch.from_numpy(images)).numpy()


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(prove(sys.argv[1])))
    else:
        sys.exit(min(1, table(sys.argv[1:] or list(ALL))))
