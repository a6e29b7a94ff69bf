"""The paper's table: the author's weights, all 100,000 cached images and the exact sum, computed on the device."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.plan import Clock, Found, LeftOut, NotHereError, Plan
from secondlook.evaluation.paper.published import ROWS, TOLERANCE, Published
from secondlook.indexer.datasets.published import CIFAR, Batches, read_published
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.cifar_recipes import cifar_recipe
from secondlook.model.networks.encoder import Encoder

AT_ONCE = 500
ROW_SECONDS = 20.0
"""That must be left for another row to be begun."""
QUICK_CACHED, QUICK_ASKED = 64, 32


def paper(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """Errors of network, mixture and cache alone, by weights.

    Raises:
        NotHereError: there are no weights or images.
    """
    if plan.weights is None or plan.data is None:
        raise NotHereError("give the folder of the author's .h5 files (--weights) and of CIFAR (--data)")
    for row in ROWS:
        files = sorted(plan.weights.glob(f"{row.prefix}*.h5"))
        if not files:
            yield LeftOut(row.prefix, f"there is no {row.prefix}*.h5")
        elif not (plan.data / CIFAR[row.dataset].folder).is_dir():
            yield LeftOut(row.prefix, f"{row.dataset} is not there as it was published")
        elif clock.left < ROW_SECONDS:
            yield LeftOut(row.prefix, "its time was over")
        else:
            yield _row(row, files[0], plan)


def _row(row: Published, weights: Path, plan: Plan) -> Found:
    from secondlook.indexer.keras import import_keras

    assert plan.data is not None
    started = time.perf_counter()
    train, test = (read_published(row.dataset, split, plan.data) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        network = import_keras(weights, Path(folder) / "network.safetensors")
    # As the author did it, from all images, test images too: which is why these errors are not held to be honest.
    network.set_pixel_statistics(np.concatenate((train.images, test.images)))
    cached, asked = (QUICK_CACHED, QUICK_ASKED) if plan.quick else (None, None)
    found = errors(network, row, _first(train, cached), _first(test, asked), plan.device)
    found["seconds"] = time.perf_counter() - started
    if plan.quick or row.network is None or row.mixed is None:
        return Found(row.prefix, found)
    agrees = abs(found["network"] - row.network) <= TOLERANCE and abs(found["mixed"] - row.mixed) <= TOLERANCE
    why = "" if agrees else f"published are {row.network} and {row.mixed} %"
    return Found(row.prefix, found, agrees, why)


def _first(batches: Batches, count: int | None) -> Batches:
    return batches._replace(images=batches.images[:count], labels=batches.labels[:count])


def errors(network: ResNet, row: Published, train: Batches, test: Batches, device: str) -> dict[str, float]:
    """Errors in percent on all of test, with all of train and its mirrored images cached under the paper's recipe."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    classes = network.classes
    encoder = Encoder(network, cifar_recipe("paper", network.depth)).to(device)
    with torch.inference_mode():
        # The author mirrored normalised images: a mirrored image under mirrored statistics.
        mirrored = copy.deepcopy(encoder)
        mirrored.network.pixel_mean = mirrored.network.pixel_mean.flip(-1)
        mirrored.network.pixel_std = mirrored.network.pixel_std.flip(-1)
        keys = torch.cat(
            (_encoded(encoder, train.images, device)[1], _encoded(mirrored, train.images[:, :, ::-1], device)[1])
        )
        of_class = F.one_hot(torch.from_numpy(train.labels), classes).float().to(device).repeat(2, 1)
        wrong = dict.fromkeys(("network", "mixed", "cache_only"), 0)
        for start in range(0, len(test.labels), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            logits, queries = _encoded(encoder, test.images[rows], device)
            truth = torch.from_numpy(test.labels[rows]).to(device)
            similarities = queries @ keys.T
            network_says = logits.softmax(dim=1)
            votes = {theta: (theta * similarities).softmax(dim=1) @ of_class for theta in (row.theta, row.cache_theta)}
            for name, says in (
                ("network", network_says),
                ("mixed", (1 - row.lam) * network_says + row.lam * votes[row.theta]),
                ("cache_only", votes[row.cache_theta]),
            ):
                wrong[name] += int((says.argmax(dim=1) != truth).sum())
    return {name: 100 * count / len(test.labels) for name, count in wrong.items()}


def _encoded(encoder: Encoder, images: NDArray[np.uint8], device: str) -> tuple[Tensor, Tensor]:
    parts = [
        encoder(torch.from_numpy(np.ascontiguousarray(images[start : start + AT_ONCE])).to(device))
        for start in range(0, len(images), AT_ONCE)
    ]
    logits, keys = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(keys)
