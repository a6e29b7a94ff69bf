"""What A. E. Orhan published for 'A Simple Cache Model for Image Recognition' (2018), by the names of his weights."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 0.0101
"""Percentage points: one of 10,000 test images may fall on the other side by rounding."""


@dataclass(frozen=True)
class Published:
    """One row: weights, the parameters in his scripts, and the errors in percent, under the paper's key recipe."""

    prefix: str
    """What the names of the weights' files begin with."""
    dataset: str
    theta: float
    lam: float
    cache_theta: float
    network: float | None = None
    mixed: float | None = None


# CIFAR-100's published errors are over 10,000 test images and compare only with all of those.
ROWS = (
    Published("cifar10_ResNet20", "cifar10", 80.0, 0.5111, 74.4444, 8.33, 7.58),
    Published("cifar10_ResNet32", "cifar10", 85.5556, 0.5111, 72.2222, 7.74, 7.01),
    Published("cifar100_ResNet32", "cifar100", 81.1111, 0.5111, 52.2222),
)


def row_of(file_name: str) -> Published | None:
    """Find the row of a weights file by its name; None for other weights."""
    return next((row for row in ROWS if file_name.startswith(row.prefix)), None)
