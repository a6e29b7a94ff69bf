"""CIFAR residual networks with named layers (He et al., 2015, section 4.2), in PyTorch.

Two variants of the same architecture:

``standard``
    Symmetric padding, convolutions without bias, batch norm epsilon 1e-5, and a 1x1 convolution with batch norm
    on shortcuts that change the shape. What ``secondlook train`` trains.
``keras``
    What the Keras example networks of 2018 compute, and so the weights of the cache paper's author: TensorFlow's
    'same' padding (a stride-2 3x3 convolution pads 0 before and 1 after), convolutions with bias, batch norm
    epsilon 1e-3, and a bare 1x1 convolution with bias on shortcuts that change the shape.

Layers are named after the place of their output: ``stem``, ``stage3.block1.inner`` (the ReLU between the two
convolutions of a block), ``stage3.block1`` (the ReLU after the addition) and ``pool`` (globally pooled features).
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from numpy.typing import NDArray
from torch import Tensor, nn

from secondlook.model.errors import NetworkError, RecipeError

Variant = Literal["standard", "keras"]
DEPTHS = (20, 32, 44, 56)
WIDTHS = (16, 32, 64)
KERAS_INPUT = (32, 32)


class Conv(nn.Conv2d):
    """A convolution padded symmetrically (standard) or as TensorFlow's 'same' (keras)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, variant: Variant) -> None:
        self.tensorflow_padding = variant == "keras" and stride == 2 and kernel == 3
        padding = 0 if self.tensorflow_padding else kernel // 2
        bias = variant == "keras"
        super().__init__(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C',H/stride,W/stride)."""
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.tensorflow_padding else x)


def _norm(channels: int, variant: Variant) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3 if variant == "keras" else 1e-5)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, variant: Variant) -> None:
        super().__init__()
        self.conv1 = Conv(channels_in, channels_out, 3, stride, variant)
        self.norm1 = _norm(channels_out, variant)
        self.conv2 = Conv(channels_out, channels_out, 3, 1, variant)
        self.norm2 = _norm(channels_out, variant)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            projection = Conv(channels_in, channels_out, 1, stride, variant)
            self.shortcut = (
                projection if variant == "keras" else nn.Sequential(projection, _norm(channels_out, variant))
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The activations after the first ReLU and after the addition's ReLU."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return inner, F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-20/32/44/56 for 32x32 images (any size that the two strides divide works).

    Raises:
        NetworkError: the depth or variant is not one of those above, or there are no classes.
    """

    def __init__(self, depth: int = 32, classes: int = 10, variant: Variant = "standard") -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise NetworkError(f"there is no ResNet-{depth}: choose one of {', '.join(map(str, DEPTHS))}")
        if variant not in get_args(Variant):
            raise NetworkError(f"there is no network variant {variant!r}: choose one of {', '.join(get_args(Variant))}")
        if classes < 1:
            raise NetworkError("a network needs at least one class")
        self.depth, self.classes, self.variant = depth, classes, variant
        self.blocks_per_stage = (depth - 2) // 6
        self.stem = nn.Sequential(Conv(3, WIDTHS[0], 3, 1, variant), _norm(WIDTHS[0], variant), nn.ReLU())
        self.stages = nn.ModuleList()
        channels = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            blocks = nn.ModuleList()
            for block in range(self.blocks_per_stage):
                blocks.append(Block(channels, width, 2 if stage > 0 and block == 0 else 1, variant))
                channels = width
            self.stages.append(blocks)
        self.head = nn.Linear(channels, classes)
        shape = (3, 1, 1) if variant == "standard" else (3, *KERAS_INPUT)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.full(shape, torch.nan))
        self.register_buffer("pixel_std", torch.full(shape, torch.nan))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def set_pixel_statistics(self, images: NDArray[np.uint8]) -> None:
        """Take mean and standard deviation of images (N,H,W,3) uint8, scaled to [0, 1].

        One pair for each channel (standard), or for each of the 32x32x3 pixels (keras).
        """
        if self.variant == "keras":
            # In float32 throughout, as NumPy did it for the imported weights: its rounding of some 1e-5 of a standard
            # deviation moves one CIFAR-10 test image.
            scaled = images.astype(np.float32) / np.float32(255)
            mean, std = np.moveaxis(scaled.mean(axis=0), -1, 0), np.moveaxis(scaled.std(axis=0), -1, 0)
        else:
            # Sums of whole numbers below 2^53 are exact in float64, whatever the order.
            count = images.size / 3
            total = images.sum(axis=(0, 1, 2), dtype=np.float64)
            squares = sum(np.square(part, dtype=np.float64).sum(axis=(0, 1, 2)) for part in np.array_split(images, 50))
            mean = (total / count / 255.0)[:, None, None]
            std = (np.sqrt(squares / count - (total / count) ** 2) / 255.0)[:, None, None]
        self.pixel_mean.copy_(torch.from_numpy(np.ascontiguousarray(mean)))
        self.pixel_std.copy_(torch.from_numpy(np.ascontiguousarray(std)))

    @property
    def has_pixel_statistics(self) -> bool:
        """Whether the statistics that ``normalize`` needs are known (an imported Keras file has none)."""
        return bool(self.pixel_mean.isfinite().all())

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B,H,W,3) uint8 -> what ``forward`` takes, (B,3,H,W) float32."""
        return self.normalize_planes(images.permute(0, 3, 1, 2))

    def normalize_planes(self, images: Tensor) -> Tensor:
        """The same for images that already are (B,3,H,W)."""
        return (images.float() / 255.0 - self.pixel_mean) / self.pixel_std

    def layer_names(self) -> list[str]:
        """Every name that ``activations`` and a key recipe may ask for, from input to output."""
        blocks = [f"stage{s}.block{b}" for s in (1, 2, 3) for b in range(1, self.blocks_per_stage + 1)]
        return ["stem", *(name + part for name in blocks for part in (".inner", "")), "pool"]

    def check_layers(self, layers: tuple[str, ...]) -> None:
        """Refuse names that this network does not have.

        Raises:
            RecipeError: names the first, and those there are.
        """
        for name in layers:
            if name not in self.layer_names():
                raise RecipeError(f"the network has no layer {name!r}: it has {', '.join(self.layer_names())}")

    def activations(self, x: Tensor, layers: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B,C) and the activations of the named layers, for normalised images x (B,3,H,W) float.

        Feature maps are (B,channels,h,w), ``pool`` is (B,64).

        Raises:
            RecipeError: a name that this network does not have.
        """
        self.check_layers(layers)
        seen: dict[str, Tensor] = {}
        x = seen["stem"] = self.stem(x)
        for s, stage in enumerate(self.stages, start=1):
            for b, block in enumerate(cast(nn.ModuleList, stage), start=1):
                inner, x = block(x)
                seen[f"stage{s}.block{b}.inner"], seen[f"stage{s}.block{b}"] = inner, x
        seen["pool"] = x.mean(dim=(2, 3))
        return self.head(seen["pool"]), {name: seen[name] for name in layers}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,C) of normalised images x (B,3,H,W) float."""
        return self.activations(x)[0]
