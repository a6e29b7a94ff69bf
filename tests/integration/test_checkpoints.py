"""Weights that lie in files: which are read, and what is said of the others; nothing in them is ever run."""

import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x0_5

from secondlook.model.errors import NetworkError
from secondlook.model.networks.checkpoints import kind_of_checkpoint
from secondlook.model.networks.sources import open_network
from secondlook.model.networks.torch_load import Loaded, load_timm, load_torchvision


class Runs:
    """Its pickle would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = shufflenet_v2_x0_5(num_classes=3).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": weights, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "training.ckpt")
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(shufflenet_v2_x0_5(), tmp_path / "module.pth")
    torch.save(shufflenet_v2_x0_5(), tmp_path / "module_old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "runs.pkl").write_bytes(pickle.dumps(Runs(tmp_path / "it ran"), protocol=2))
    (tmp_path / "runs_new.pkl").write_bytes(pickle.dumps(Runs(tmp_path / "it ran")))
    torch.save({"a": Runs(tmp_path / "it ran")}, tmp_path / "runs.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, but people have such files
        torch.jit.save(torch.jit.trace(Small(), torch.zeros(1, 3, 32, 32)), tmp_path / "script.pt")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.pth", r"holds weights without the network's code: give torchvision:NAME@.*weights\.pth"),
        ("old.pth", "holds weights without the network's code"),
        ("training.ckpt", "holds weights without the network's code"),
        (
            "module.pth",
            r"is a pickle that would run code \(torchvision.models.shufflenetv2.ShuffleNetV2\), which is",
        ),
        ("module_old.pt", r"is a pickle that would run code \(torchvision"),
        ("runs.pkl", r"is a pickle that would run code \("),
        ("runs_new.pkl", r"is a pickle that would run code \("),
        ("runs.pth", r"is a pickle that would run code \("),
        ("script.pt", "is TorchScript, whose layers cannot be named: give FILE.py:FUNCTION"),
        ("empty.pth", "is none that is whole"),
        ("text.pth", "is none that is whole"),
        ("none.pt", "there is no file .*none.pt: name one of"),
    ],
)
def test_a_file_of_pytorchs_alone_gets_one_sentence(name: str, said: str, folder: Path) -> None:
    with pytest.raises(NetworkError) as caught:
        open_network(str(folder / name))
    sentence = str(caught.value)
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence
    assert "secondlook network" in sentence
    assert "FILE.py:FUNCTION" in sentence
    assert not (folder / "it ran").exists()


@pytest.mark.parametrize("name", ["weights.pth", "old.pth", "training.ckpt", "weights.safetensors"])
def test_a_file_with_the_librarys_name_is_read(name: str, folder: Path) -> None:
    loaded = load_torchvision("shufflenet_v2_x0_5", str(folder / name))
    same(loaded, folder)
    assert loaded.preprocess is not None
    with pytest.raises(NetworkError, match=r"does not hold the weights of resnet10t \(Missing key"):
        load_timm("resnet10t", str(folder / name))


def same(loaded: Loaded, folder: Path) -> None:
    torch.manual_seed(0)
    module, images = shufflenet_v2_x0_5(num_classes=3).eval(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.module.eval()(images), module(images))


@pytest.mark.parametrize("name", ["module.pth", "runs.pth", "runs.pkl", "script.pt", "empty.pth", "text.pth"])
def test_no_pickle_is_run_with_the_librarys_name_either(name: str, folder: Path) -> None:
    with pytest.raises(NetworkError, match=r"holds more than tensors, or is damaged: save module.state_dict"):
        load_torchvision("shufflenet_v2_x0_5", str(folder / name))
    assert not (folder / "it ran").exists()


def test_another_librarys_network_and_another_task_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"torchvision:fasterrcnn_resnet50_fpn does not classify images"):
        load_torchvision("fasterrcnn_resnet50_fpn", "")
    with pytest.raises(NetworkError, match=r"timm has no weights for .*: give a file of yours, as timm:.*@FILE"):
        load_timm("coatnet_0_224", "")


def test_the_kinds_are_told_without_pytorch(folder: Path) -> None:
    assert kind_of_checkpoint(folder / "weights.pth")[0] == "state dict"
    assert kind_of_checkpoint(folder / "old.pth")[0] == "state dict"
