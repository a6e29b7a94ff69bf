"""``hf:ORG/NAME`` by the hub's own client, from a hub on this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import networks_for_tests as dialects
from tests.hub_for_tests import Hub, serving
from tests.networks_for_tests import CLASSES, SIDE, written

LABELS = {str(i): f"thing {i}" for i in range(CLASSES)}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
             "size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # fmt: skip
OPENS = """
import json, sys
import numpy as np
from secondlook.model.errors import SecondlookError
from secondlook.model.networks.sources import open_network

try:
    network = open_network(sys.argv[1])
except SecondlookError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
said = network.activations(network.probe(3), [network.default_layer])
print(json.dumps({
    "name": network.name,
    "classes": network.classes,
    "default": network.default_layer,
    "kind": network.layers()[network.default_layer].kind,
    "layers": len(network.layers()),
    "logits": None if said.logits is None else said.logits.tolist(),
    "seen": said.seen[network.default_layer].tolist(),
    "preprocess": json.loads(network.preprocess.model_dump_json()),
    "imported": [name for name in ("torch", "timm", "transformers") if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    for name, below in (("org/onnx", "onnx"), ("org/terms", ""), ("org/large", "onnx")):
        (root / name / below).mkdir(parents=True)
        if name == "org/large":  # as the hub's own exporters call what lies beside
            model = dialects.classifier()
            onnx.save_model(
                model, str(root / name / below / "model.onnx"), save_as_external_data=True,
                location="model.onnx_data", size_threshold=0,
            )  # fmt: skip
        else:
            written(dialects.classifier(), root / name / below, "model")
        (root / name / "config.json").write_text(json.dumps({"id2label": LABELS}))
        (root / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (root / "org/onnx/model.safetensors").write_bytes(bytes(100))  # the same network, for PyTorch
    for name, config in (
        ("org/words", {"model_type": "bert", "architectures": ["BertForMaskedLM"]}),
        ("org/boxes", {"model_type": "detr", "architectures": ["DetrForObjectDetection"]}),
        ("org/bare", {"model_type": "vit", "architectures": ["ViTModel"]}),
    ):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps(config))
        (root / name / "model.safetensors").write_bytes(bytes(100))
    (root / "org/empty").mkdir()
    (root / "org/empty/README.md").write_text("nothing yet")
    with serving(root, gated=("org/terms",)) as hub:
        yield hub


Opens = Callable[..., dict[str, Any]]


@pytest.fixture
def opens(hub: Hub, tmp_path: Path) -> Opens:
    """What another process says of a network, with a cache of the hub's of its own."""

    def ask(name: str, **environment: str) -> dict[str, Any]:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        given = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        ended = subprocess.run(
            [sys.executable, "-c", OPENS, name], capture_output=True, text=True, env={**given, **own, **environment}
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        return dict(json.loads(ended.stdout.splitlines()[-1]))

    return ask


@pytest.mark.parametrize("name", ["org/onnx", "org/large"])
def test_an_onnx_file_needs_no_pytorch_and_nothing_else_is_fetched(name: str, hub: Hub, opens: Opens) -> None:
    hub.asked.clear()
    said = opens(f"hf:{name}")
    assert said["imported"] == []
    assert (said["name"], said["classes"]) == (f"hf:{name}", list(LABELS.values()))
    assert said["preprocess"]["arithmetic"]["std"] == [0.25] * 3
    assert said["preprocess"]["read_from"] == "preprocessor_config.json beside model.onnx"
    assert np.shape(said["logits"]) == (3, CLASSES)
    assert any(path.endswith("onnx/model.onnx") for path in hub.asked)
    assert not any("safetensors" in path for path in hub.asked)


def test_what_was_fetched_is_there_without_a_hub(opens: Opens) -> None:
    online = opens("hf:org/onnx")
    assert opens("hf:org/onnx", HF_HUB_OFFLINE="1")["logits"] == online["logits"]
    assert opens("hf:org/onnx", HF_ENDPOINT="http://127.0.0.1:9")["logits"] == online["logits"]


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        (
            "org/nowhere",
            {},
            "hf:org/nowhere is not on the hub, or it is private: check its name, or type hf auth login",
        ),
        ("org/terms", {}, "hf:org/terms is given only to those who accepted its terms: .* type hf auth login"),
        ("a/b/c", {}, "hf:a/b/c names no repository: write hf:ORG/NAME, or hf:FOLDER"),
        ("org/empty", {}, "hf:org/empty has neither an ONNX file nor weights in safetensors: name another"),
        ("org/onnx", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub is not reached .* type hf download org/onnx"),
        ("org/onnx", {"HF_HUB_OFFLINE": "1"}, "the hub is not reached .* type hf download org/onnx"),
    ],
)
def test_what_cannot_be_fetched_gets_one_sentence(
    name: str, environment: dict[str, str], said: str, opens: Opens
) -> None:
    sentence = opens(f"hf:{name}", **environment)["error"]
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence
    assert "secondlook network" in sentence


@pytest.mark.networks
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/words", "hf:org/words: it is made for another task .BertForMaskedLM.: name a repository"),
        ("org/boxes", "hf:org/boxes: it is made for another task .DetrForObjectDetection.: name a repository"),
        ("org/bare", "hf:org/bare: it has no preprocessor_config.json"),
    ],
)
def test_a_repository_without_a_network_for_images_gets_one_sentence(name: str, said: str, opens: Opens) -> None:
    sentence = opens(f"hf:{name}")["error"]
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence


def of_transformers(kind: str, folder: Path) -> Any:
    import transformers as t

    side, labels = 64, {int(key): label for key, label in LABELS.items()}
    small = {"image_size": side, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    configs: dict[str, tuple[Any, Any]] = {
        "vit": (
            t.ViTConfig(**small, intermediate_size=64, patch_size=16, id2label=labels),
            t.ViTForImageClassification,
        ),
        "deit": (
            t.DeiTConfig(**small, intermediate_size=64, patch_size=16, id2label=labels),
            t.DeiTForImageClassificationWithTeacher,
        ),
        "resnet": (
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=labels),
            t.ResNetForImageClassification,
        ),
        "convnext": (
            t.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], image_size=side, id2label=labels),
            t.ConvNextForImageClassification,
        ),
        "swin": (
            t.SwinConfig(image_size=side, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, id2label=labels),
            t.SwinForImageClassification,
        ),
        "dinov2": (t.Dinov2Config(**small, patch_size=16), t.Dinov2Model),
        "mobilenet_v2": (
            t.MobileNetV2Config(depth_multiplier=0.25, image_size=side, id2label=labels),
            t.MobileNetV2ForImageClassification,
        ),
    }
    config, kind_of = configs[kind]
    module = kind_of(config).eval()
    module.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "size": {"height": side, "width": side}}))
    return module


@pytest.mark.networks
@pytest.mark.parametrize("kind", ["vit", "deit", "resnet", "convnext", "swin", "dinov2", "mobilenet_v2"])
def test_a_module_of_transformers_says_the_same(kind: str, hub: Hub, opens: Opens) -> None:
    import torch

    from secondlook.model.networks.preprocess import Arithmetic

    torch.manual_seed(0)
    (folder := hub.root / "org" / kind).mkdir()
    module = of_transformers(kind, folder)
    said = opens(f"hf:org/{kind}")
    assert "error" not in said, said
    assert said["name"] == f"hf:org/{kind}"
    assert said["preprocess"]["read_from"] == "preprocessor_config.json"
    images = probe(64)
    taken = torch.from_numpy(Arithmetic.model_validate(said["preprocess"]["arithmetic"]).apply(images))
    with torch.inference_mode():
        made = module(pixel_values=taken)
    if kind == "dinov2":
        assert said["classes"] is None
        expected, ours = made.pooler_output.numpy(), np.array(said["seen"])
    else:
        assert said["classes"] == list(LABELS.values())
        expected, ours = made.logits.numpy(), np.array(said["logits"])
    assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max()
    assert said["layers"] > 3


@pytest.mark.networks
def test_a_network_of_timms_says_the_same(hub: Hub, opens: Opens) -> None:
    import timm
    import torch
    from timm.models import save_for_hf

    from secondlook.model.networks.preprocess import Arithmetic

    torch.manual_seed(0)
    (folder := hub.root / "org" / "timm").mkdir()
    module = timm.create_model("resnet10t", num_classes=CLASSES).eval()
    save_for_hf(module, folder, model_config={"label_names": list(LABELS.values())}, safe_serialization=True)
    said = opens("hf:org/timm")
    assert "error" not in said, said
    assert (said["name"], said["classes"]) == ("hf:org/timm", list(LABELS.values()))
    geometry = said["preprocess"]["geometry"]
    images = probe(geometry["height"])
    with torch.inference_mode():
        expected = module(
            torch.from_numpy(Arithmetic.model_validate(said["preprocess"]["arithmetic"]).apply(images))
        ).numpy()
    assert np.abs(np.array(said["logits"]) - expected).max() <= 1e-3 * np.abs(expected).max()
    assert said["preprocess"]["read_from"] == "config.json"


def probe(side: int) -> Any:
    """As ``OnnxNetwork.probe(3)``."""
    from secondlook.model.networks.onnx_network import smooth_noise

    return smooth_noise(3, (side, side))
