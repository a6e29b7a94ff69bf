"""The reduction of keys, against PyTorch's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secondlook.model.errors import RecipeError
from secondlook.model.networks import projection
from secondlook.model.networks.encoder import fit_projection
from secondlook.model.networks.keys import unit
from secondlook.model.networks.projection import Covariance


def features(count: int, wide: int) -> NDArray[np.float32]:
    """Unit vectors whose variance falls off as that of real features does."""
    random = np.random.default_rng(0)
    spread = 1 / np.arange(1, wide + 1)
    turned = np.linalg.qr(random.normal(size=(wide, wide)))[0]
    return unit(((random.normal(size=(count, wide)) * spread) @ turned + 0.3 * turned[0]).astype(np.float32))


@pytest.mark.parametrize("whole", [4096, 16])  # all directions at once, or the largest by iteration
def test_it_spans_what_pytorchs_spans(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_WHOLE", whole)
    seen = features(400, 96)
    covariance = Covariance(96)
    for start in range(0, 400, 64):
        covariance.add(seen[start : start + 64])
    ours, theirs = covariance.projection(12).astype(np.float64), fit_projection(torch.from_numpy(seen), 12).numpy()
    cosines = np.abs((ours * theirs).sum(axis=0))
    assert cosines.min() > 0.999
    reduced = [unit(seen @ directions.astype(np.float32)) for directions in (ours, theirs)]
    np.testing.assert_allclose(reduced[0] @ reduced[0].T, reduced[1] @ reduced[1].T, atol=2e-3)


def test_more_numbers_than_images_or_features_are_refused() -> None:
    covariance = Covariance(96)
    covariance.add(features(8, 96))
    assert covariance.projection(8).shape == (96, 8)
    with pytest.raises(RecipeError, match="at most 8"):
        covariance.projection(9)
    narrow = Covariance(4)
    narrow.add(features(8, 4))
    with pytest.raises(RecipeError, match="at most 4"):
        narrow.projection(5)
