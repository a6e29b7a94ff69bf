"""Images that fool the network, and what mixture and cache say of them: the paper's second figure.

The attacks are those of the paper's author, made against the network alone in the space of its normalised pixels, whose
bounds are the darkest and the brightest normalised pixel. Each looks for the smallest perturbation of its grid that
fools the network; images that the network gets wrong unperturbed are left out, and counted.

``fgsm``            x + epsilon range sign(gradient of the loss in x), epsilon growing (Goodfellow et al., 2015).
``iterative_fgsm``  the same in some small steps, the gradient taken anew at each (Kurakin et al., 2016).
``single_pixel``    one pixel, all its channels, set to the least or to the greatest value; pixels in random order.
``gaussian_blur``   a Gaussian filter, its standard deviation growing up to the image's width.

The definitions are those of foolbox 1 (Rauber et al., 2017), which the author used, but for iterative_fgsm ending with
the first step size and step that fool the network. They are written here because foolbox 3 has no single pixel, looks
for the blur in another way, and takes FGSM's gradient anew for each of 50 epsilons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from numpy.typing import NDArray
from torch import Tensor

from secondlook.indexer.progress import Progress, silent
from secondlook.model.networks.cifar import ResNet

Attack = Literal["fgsm", "iterative_fgsm", "single_pixel", "gaussian_blur"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
LABELS = {
    "fgsm": "FGSM",
    "iterative_fgsm": "iterative FGSM",
    "single_pixel": "single pixel",
    "gaussian_blur": "Gaussian blur",
}
AT_ONCE = 128
TRUNCATE = 4.0
"""Standard deviations after which a Gaussian filter ends, as in SciPy."""


@dataclass(frozen=True)
class Preset:
    """Grids of perturbations: steps up to a largest, sizes as shares of the pixels' range or of the image's width."""

    fgsm: tuple[int, float]
    iterative_fgsm: tuple[int, float]
    iterations: int
    pixels: int
    gaussian_blur: tuple[int, float]


PRESETS = {
    "orhan2018": Preset((50, 0.5), (50, 0.1), 10, 1000, (50, 1.0)),
    "quick": Preset((50, 0.5), (50, 0.1), 10, 100, (50, 1.0)),
}
"""The author's settings, and the same with fewer single pixels, which take nearly all of the time."""


@dataclass(frozen=True)
class Crafted:
    """What an attack on a network found, for n images that the network got right."""

    attack: Attack
    positions: NDArray[np.int64]
    """(m,) which of the images fool the network now."""
    images: Tensor
    """(m,3,H,W) those, normalised pixels."""
    sizes: NDArray[np.float64]
    """(m,) norm of the perturbation by norm of the image, both of normalised pixels."""


def bounds(network: ResNet) -> tuple[float, float]:
    """Return the least and the greatest normalised pixel that an image can have."""
    dark, bright = -network.pixel_mean / network.pixel_std, (1 - network.pixel_mean) / network.pixel_std
    return float(dark.min()), float(bright.max())


def craft(
    network: ResNet,
    x: Tensor,
    labels: Tensor,
    attack: Attack,
    preset: Preset,
    progress: Progress = silent,
) -> Crafted:
    """Attack a network with images (n,3,H,W) of normalised pixels that it gets right."""
    hunt = _Hunt(network, x, labels, lambda done, total: progress(LABELS[attack], done, total))
    _BY_NAME[attack](hunt, preset)
    positions = hunt.fooled.nonzero()[:, 0]
    found = hunt.found[positions]
    change = (found - x[positions]).flatten(1).double().norm(dim=1)
    sizes = change / x[positions].flatten(1).double().norm(dim=1)
    return Crafted(attack, positions.cpu().numpy(), found, sizes.cpu().numpy())


@dataclass
class _Hunt:
    """Images that do not fool a network yet, and those found that do."""

    network: ResNet
    x: Tensor
    labels: Tensor
    report: Callable[[int, int], None]
    found: Tensor = field(init=False)
    fooled: Tensor = field(init=False)
    left: Tensor = field(init=False)
    """Positions of the images still hunted for."""

    def __post_init__(self) -> None:
        self.found = self.x.clone()
        self.fooled = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        self.left = torch.arange(len(self.x), device=self.x.device)
        self.low, self.high = bounds(self.network)

    def ask(self, candidates: Tensor) -> Tensor:
        """Try one candidate for each image left; those that fool the network leave. Which of them stay."""
        wrong = self.classes(candidates) != self.labels[self.left]
        self.found[self.left[wrong]] = candidates[wrong]
        self.fooled[self.left[wrong]] = True
        self.left = self.left[~wrong]
        return ~wrong

    def classes(self, x: Tensor) -> Tensor:
        """Return the classes that the network gives."""
        with torch.inference_mode():
            x = x.contiguous(memory_format=torch.channels_last)
            parts = [self.network(part).argmax(1) for part in torch.split(x, AT_ONCE)]
        return torch.cat(parts).clone()

    def slopes(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the signs of the loss's gradient times the range of a pixel."""
        signs = []
        for part, wanted in zip(torch.split(x, AT_ONCE), torch.split(labels, AT_ONCE), strict=True):
            part = part.detach().requires_grad_()
            loss = F.cross_entropy(self.network(part), wanted, reduction="sum")
            signs.append(torch.autograd.grad(loss, part)[0].sign())
        return torch.cat(signs) * (self.high - self.low)


def _grid(steps: int, largest: float) -> list[float]:
    return [largest * step / steps for step in range(1, steps + 1)]


def _fgsm(hunt: _Hunt, preset: Preset) -> None:
    slopes = hunt.slopes(hunt.x, hunt.labels)
    epsilons = _grid(*preset.fgsm)
    for done, epsilon in enumerate(epsilons):
        if len(hunt.left):
            hunt.ask((hunt.x[hunt.left] + epsilon * slopes[hunt.left]).clamp(hunt.low, hunt.high))
        hunt.report(done + 1, len(epsilons))


def _iterative_fgsm(hunt: _Hunt, preset: Preset) -> None:
    sizes = _grid(*preset.iterative_fgsm)
    for done, size in enumerate(sizes):
        x = hunt.x[hunt.left]
        for _ in range(preset.iterations):
            if len(x):
                x = (x + size * hunt.slopes(x, hunt.labels[hunt.left])).clamp(hunt.low, hunt.high)
                x = x[hunt.ask(x)]
        hunt.report(done + 1, len(sizes))


def _single_pixel(hunt: _Hunt, preset: Preset) -> None:
    height, width = hunt.x.shape[2:]
    for image in range(len(hunt.x)):
        order = np.random.default_rng((0, image)).permutation(height * width)[: preset.pixels]
        places = torch.from_numpy(order).to(hunt.x.device)
        for part in torch.split(places, AT_ONCE // 2):
            # Each place dark, then bright: the order in which they count.
            candidates = hunt.x[image].repeat(2 * len(part), 1, 1, 1)
            rows, columns = part // width, part % width
            every = torch.arange(len(part), device=part.device)
            candidates[2 * every, :, rows, columns] = hunt.low
            candidates[2 * every + 1, :, rows, columns] = hunt.high
            wrong = (hunt.classes(candidates) != hunt.labels[image]).nonzero()
            if len(wrong):
                hunt.found[image] = candidates[wrong[0, 0]]
                hunt.fooled[image] = True
                break
        hunt.report(image + 1, len(hunt.x))


def _gaussian_blur(hunt: _Hunt, preset: Preset) -> None:
    height, width = hunt.x.shape[2:]
    shares = _grid(*preset.gaussian_blur)
    for done, share in enumerate(shares):
        if len(hunt.left):
            sigma = share * max(height, width)
            across, down = (_filter(side, sigma).to(hunt.x) for side in (width, height))
            hunt.ask((down @ hunt.x[hunt.left] @ across.T).clamp(hunt.low, hunt.high))
        hunt.report(done + 1, len(shares))


def _filter(side: int, sigma: float) -> Tensor:
    """A Gaussian filter along an axis of so many pixels as a matrix (side,side); beyond the edge it is mirrored."""
    radius = int(TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # d c b a | a b c d | d c b a, as often as the filter reaches over.
    places = (np.arange(side)[:, None] + offsets) % (2 * side)
    places = np.minimum(places, 2 * side - 1 - places)
    matrix = np.zeros((side, side))
    for row in range(side):
        np.add.at(matrix[row], places[row], weights)
    return torch.from_numpy(matrix)


_BY_NAME: dict[Attack, Callable[[_Hunt, Preset], None]] = {
    "fgsm": _fgsm,
    "iterative_fgsm": _iterative_fgsm,
    "single_pixel": _single_pixel,
    "gaussian_blur": _gaussian_blur,
}
