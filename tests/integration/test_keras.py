"""Import of Keras weights: a file made here, and the author's own where they are at hand."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from secondlook.indexer.keras import TENSORS, import_keras
from secondlook.model.errors import NetworkError
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.file import load_network
from secondlook.model.networks.preprocess import CIFAR


def write_keras(network: ResNet, path: Path) -> None:
    """The network's weights as Keras would have written them."""
    ours = {("weight", 4): "kernel", ("weight", 2): "kernel", ("weight", 1): "gamma"}
    with h5py.File(path, "w") as file:
        counts: dict[str, int] = {}
        for module in network.modules():
            kind = {"Conv": "conv2d", "BatchNorm2d": "batch_normalization", "Linear": "dense"}.get(
                type(module).__name__
            )
            if kind is None:
                continue
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}_{counts[kind]}"
            for tensor, value in module.state_dict().items():
                array = value.numpy()
                if tensor == "num_batches_tracked":
                    continue
                if tensor == "weight":
                    keras = ours[(tensor, array.ndim)]
                elif tensor == "bias":
                    keras = "beta" if kind == "batch_normalization" else "bias"
                else:
                    keras = {v: k for k, v in TENSORS.items()}[tensor]
                stored = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
                file[f"model_weights/{name}/{name}/{keras}:0"] = stored


def test_imported_weights_compute_what_they_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet(20, 7, "keras")
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.1 + 0.01)
    write_keras(network.eval(), tmp_path / "net.h5")
    import_keras(tmp_path / "net.h5", tmp_path / "net.safetensors")
    loaded = load_network(tmp_path / "net.safetensors")
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(x), network(x))
    assert loaded.class_names is None
    assert not loaded.network.has_pixel_statistics


def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    write_keras(ResNet(20, 7, "keras"), tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        del file["model_weights/conv2d_2/conv2d_2/kernel:0"]
        file["model_weights/conv2d_2/conv2d_2/kernel:0"] = np.zeros((5, 5, 16, 16), np.float32)
    with pytest.raises(NetworkError, match=r"tensor kernel of shape \(5, 5, 16, 16\) does not fit"):
        import_keras(tmp_path / "net.h5", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_keras(ResNet(20, 7, "keras"), tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        del file["model_weights/conv2d_5/conv2d_5/bias:0"]
    with pytest.raises(NetworkError, match="tensor bias is missing"):
        import_keras(tmp_path / "net.h5", tmp_path / "net.safetensors")


def test_what_is_no_keras_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"no file")
    with pytest.raises(NetworkError, match="is not a Keras model file"):
        import_keras(tmp_path / "net.h5", tmp_path / "net.safetensors")


@pytest.mark.slow
def test_the_authors_resnet32_errs_as_published(data_root: Path, tmp_path: Path) -> None:
    """The network alone on 1,000 test images; ``make paper`` measures the whole table."""
    weights = os.environ.get("SECONDLOOK_AUTHOR_WEIGHTS")
    if not weights:
        pytest.skip("SECONDLOOK_AUTHOR_WEIGHTS does not point at the author's weights")
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.datasets.reading import read_all

    (source,) = Path(weights).glob("cifar10_ResNet32*.h5")
    network = import_keras(source, tmp_path / "net.safetensors")
    train, test = (load("cifar10", split, data_root) for split in ("train", "test"))
    (of_train, _), (of_test, positions) = read_all(train, CIFAR.geometry), read_all(test, CIFAR.geometry)
    network.set_pixel_statistics(np.concatenate([of_train, of_test]))
    images, labels = of_test[:1000], test.labels[positions[:1000]]
    with torch.inference_mode():
        logits = network(network.normalize(torch.from_numpy(images)))
    # 92.3 % right on these thousand; a wrong padding, layer order or epsilon costs tens of points.
    assert (logits.argmax(1).numpy() == labels).mean() == pytest.approx(0.923, abs=0.0011)
