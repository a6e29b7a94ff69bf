"""Training of a CIFAR ResNet: SGD with Nesterov momentum on a one-cycle schedule, resumable after any epoch."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from secondlook.indexer.datasets.copies import Looks, kept_apart
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.progress import Progress, silent
from secondlook.model.errors import DatasetError, EngineError, NetworkError
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.file import load_network, save_network
from secondlook.model.networks.preprocess import CIFAR

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What decides a training run.

    A checkpoint is continued under the same options only, but epochs may change.
    """

    depth: int = 32
    epochs: int = 60
    batch_size: int = 128
    peak_lr: float = 0.3
    weight_decay: float = 5e-4
    seed: int = 0
    start: str = ""
    """A network file of that depth to start from; the pixel statistics are then its own."""
    compile: bool = False


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to."""

    epoch: int
    train_loss: float
    holdout_error_percent: float
    seconds: float


def learning_rate(progress: float, peak: float) -> float:
    """One cycle: linear from peak/10 to the peak over the first fifth of the run, then a cosine down to zero."""
    if progress < 0.2:
        return peak * (0.1 + 0.9 * progress / 0.2)
    return peak * 0.5 * (1.0 + float(np.cos(np.pi * (progress - 0.2) / 0.8)))


def train(
    dataset: Dataset, out: Path, options: TrainOptions, *, device: str = "auto", progress: Progress = silent
) -> list[EpochResult]:
    """Train on all but the dataset's holdout; write the epoch with the fewest holdout errors to ``out``.

    ``out`` is a safetensors file with the network and the pixel statistics of the images trained on. Beside it lies
    ``<out>.checkpoint`` until the run is complete; a run that finds one continues after its last epoch.

    Raises:
        NetworkError: the checkpoint beside ``out`` belongs to other options or images, out cannot be written, or the
            network to start from is not whole or not of options.depth.
        DatasetError: a class has no image that can be read, or there are too few images.
        EngineError: there is no such device.
    """
    if not out.parent.is_dir():
        raise NetworkError(f"there is no folder {out.parent} to write {out.name} to")
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("PyTorch finds no CUDA device here: train with --device cpu")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    images, positions = read_all(dataset, CIFAR.geometry, progress)
    labels = dataset.labels[positions]
    held = np.isin(positions, dataset.holdout())
    looks = Looks.joined([Looks.of(images[start : start + 1000]) for start in range(0, len(images), 1000)])
    new = ~kept_apart(held, looks, labels)
    if new.sum() < 2 or not held.any():
        raise DatasetError(f"{dataset.name} has too few images to train on and to hold some out")
    _check_readable(dataset, labels[new])
    if (copied := int((~new & ~held).sum())) > 0:
        log.warning("%d images are copies of held-out ones, and are not trained on", copied)
    torch.manual_seed(options.seed)
    network, earlier = _starting_network(options, dataset, images[new])
    network.to(device).to(memory_format=torch.channels_last)
    run = _Run(network, options, device, out, dataset.content_hash())
    history = run.resume()
    trained = None if earlier is None else np.unique(np.concatenate((earlier, looks.digests[new])))
    train_images = torch.from_numpy(np.pad(images[new], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect"))
    train_labels = torch.from_numpy(labels[new])
    for epoch in range(len(history), options.epochs):
        started = time.perf_counter()
        loss = run.epoch(epoch, train_images, train_labels, progress)
        error = run.error_percent(images[held], labels[held])
        history.append(EpochResult(epoch + 1, loss, error, time.perf_counter() - started))
        if error <= min(result.holdout_error_percent for result in history):
            save_network(
                network,
                out,
                classes=dataset.classes,
                trained_on=f"{dataset.name} {dataset.split} less holdout",
                trained=trained,
            )
        run.checkpoint(history)
    run.checkpoint_path.unlink(missing_ok=True)
    return history


def _check_readable(dataset: Dataset, labels: NDArray[np.int64]) -> None:
    """Hold a dataset to having images of each class among the labels (N,) that are trained on.

    Raises:
        DatasetError: names the classes that have none.
    """
    lost = np.setdiff1d(dataset.labels, labels)
    if len(lost):
        named = ", ".join(dataset.classes[label] for label in lost[:5])
        why = f"; left out: {dataset.left_out.said()}" if len(dataset.left_out) else ""
        raise DatasetError(f"{dataset.name} has no images of {named} to train on, but those that are held out{why}")


def _starting_network(
    options: TrainOptions, dataset: Dataset, images: NDArray[np.uint8]
) -> tuple[ResNet, NDArray[np.uint64] | None]:
    """A new network, or the one to start from; that one's last layer is new where its classes are others.

    Also what that one was trained on, digests of images; None where its file does not say.
    """
    network = ResNet(options.depth, len(dataset.classes))
    network.set_pixel_statistics(images)
    if not options.start:
        return network, np.empty(0, np.uint64)
    start = load_network(Path(options.start))
    if start.network.variant != network.variant:
        raise NetworkError(f"{options.start} was imported from Keras: such a network cannot be trained on")
    if start.network.depth != options.depth:
        raise NetworkError(
            f"{options.start} holds a resnet{start.network.depth}, not a resnet{options.depth}: give --depth "
            f"{start.network.depth}"
        )
    state = start.network.state_dict()
    if start.class_names != dataset.classes:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    network.load_state_dict(state, strict=False)
    return network, start.trained


class _Run:
    """The state of one training run: network, optimiser, and the checkpoint that holds both."""

    def __init__(self, network: ResNet, options: TrainOptions, device: str, out: Path, images_sha256: str) -> None:
        self.images_sha256 = images_sha256
        self.network, self.options, self.device = network, options, device
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=options.peak_lr,
            momentum=0.9,
            nesterov=True,
        )
        self.forward = torch.compile(network, dynamic=False) if options.compile else network
        self.checkpoint_path = out.with_name(out.name + ".checkpoint")
        # bf16 pays where the hardware multiplies in it: GPUs from Ampere on, and processors with AVX-512 BF16 or AMX.
        self.bf16 = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()

    def epoch(self, epoch: int, images: Tensor, labels: Tensor, progress: Progress) -> float:
        """One pass over the images (N,40,40,3); the mean loss."""
        options, count = self.options, len(labels)
        random = np.random.default_rng((options.seed, epoch))
        order = random.permutation(count)
        size = min(options.batch_size, count)
        steps = count // size
        total = 0.0
        self.network.train()
        for step in range(steps):
            chosen = order[step * size : (step + 1) * size]
            x = _augment(images, chosen, random).to(self.device, memory_format=torch.channels_last)
            y = labels[chosen].to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate((epoch + step / steps) / options.epochs, options.peak_lr)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                loss = F.cross_entropy(self.forward(self.network.normalize_planes(x)), y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += float(loss.detach())
            progress(f"epoch {epoch + 1}", (step + 1) * size, steps * size)
        return total / steps

    @torch.inference_mode()
    def error_percent(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
        """Share of images (N,32,32,3) that the network gets wrong, in percent."""
        self.network.eval()
        wrong = 0
        for start in range(0, len(labels), 500):
            x = torch.from_numpy(images[start : start + 500]).to(self.device)
            wrong += int(
                (self.network(self.network.normalize(x)).argmax(1).cpu().numpy() != labels[start : start + 500]).sum()
            )
        return 100.0 * wrong / max(len(labels), 1)

    def checkpoint(self, history: list[EpochResult]) -> None:
        """Write network, momenta and history beside the output, atomically."""
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum.contiguous()
        header = {
            "options": json.dumps(asdict(self.options)),
            "history": json.dumps([asdict(r) for r in history]),
            "images_sha256": self.images_sha256,
        }
        temporary = self.checkpoint_path.with_name(self.checkpoint_path.name + ".new")
        save_file(tensors, temporary, header)
        os.replace(temporary, self.checkpoint_path)

    def resume(self) -> list[EpochResult]:
        """Load the checkpoint where there is one; the history so far."""
        if not self.checkpoint_path.exists():
            return []
        with safe_open(self.checkpoint_path, "pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header["images_sha256"] != self.images_sha256:
            raise NetworkError(f"{self.checkpoint_path} belongs to a run on other images: remove it to start anew")
        stored = TrainOptions(**json.loads(header["options"]))
        if replace(stored, epochs=self.options.epochs, compile=self.options.compile) != self.options:
            raise NetworkError(
                f"{self.checkpoint_path} belongs to a run with other options ({header['options']}): "
                "give those, or remove it"
            )
        self.network.load_state_dict(
            {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
        )
        for name, parameter in self.network.named_parameters():
            momentum = tensors[f"momentum.{name}"].to(self.device, memory_format=torch.preserve_format)
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        return [EpochResult(**result) for result in json.loads(header["history"])]


def _augment(images: Tensor, chosen: NDArray[np.int64], random: np.random.Generator) -> Tensor:
    """Random crops of the padded images (N,40,40,3), half of them mirrored: (B,3,32,32) uint8."""
    side = CIFAR.geometry.height
    room = images.shape[1] - side + 1
    rows = random.integers(0, room, (len(chosen), 1, 1)) + np.arange(side)[None, :, None]
    columns = random.integers(0, room, (len(chosen), 1, 1)) + np.arange(side)[None, None, :]
    mirrored = random.random(len(chosen)) < 0.5
    columns = np.where(mirrored[:, None, None], columns[:, :, ::-1], columns)
    crops = images[torch.from_numpy(chosen)[:, None, None], torch.from_numpy(rows), torch.from_numpy(columns)]
    return crops.permute(0, 3, 1, 2)
