"""The three models in PyTorch are the server's, and their gradients are those of what they say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from secondlook.evaluation.robustness.models import KeyCache, Models
from secondlook.model import memory
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import exact_vote, mix, softmax, vote
from secondlook.model.errors import BundleError, MemoryLimitError, ParameterError
from secondlook.model.stores.faiss_store import FaissStore

CLASSES = 4


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def store() -> FaissStore:
    random = np.random.default_rng(0)
    # Class 3 has no entry.
    return FaissStore.build(unit(random.normal(size=(90, 8))), random.integers(0, 3, 90), "Flat")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def queries() -> np.ndarray:
    return unit(np.random.default_rng(1).normal(size=(5, 8)))


@pytest.mark.parametrize("keeping", ["float32", "float16", "stored"])
@pytest.mark.parametrize("theta", [3.0, 80.0])
def test_the_vote_is_the_stores(store: FaissStore, keeping: str, theta: float) -> None:
    cache = KeyCache(store, CLASSES, keeping)
    asked = torch.from_numpy(queries())
    exact = exact_vote(queries(), store.chunks(), (theta, 1.0), CLASSES)[0]
    atol = 1e-5 if keeping != "float16" else 2e-2
    found = cache.scores(asked, (theta, 1.0)).softmax(2)
    np.testing.assert_allclose(found, exact, atol=atol)
    nearest = store.search(queries(), 7)
    served = vote(nearest.similarities, nearest.values, theta, CLASSES)
    np.testing.assert_allclose(cache.scores(asked, (theta,), 7)[0].softmax(1), served, atol=atol)


@pytest.mark.parametrize("k", [None, 7])
def test_the_gradient_is_that_of_the_scores(store: FaissStore, k: int | None) -> None:
    cache = KeyCache(store, CLASSES)
    asked = torch.from_numpy(queries()).requires_grad_()

    def by_autograd(q: torch.Tensor, theta: float) -> torch.Tensor:
        raw = theta * (q @ torch.from_numpy(next(store.chunks())[0]).T)
        if k is not None:
            raw = raw.masked_fill(raw < raw.topk(k, dim=1).values[:, -1:], -torch.inf)
        of = torch.from_numpy(store.values)
        return torch.stack([raw[:, of == c].logsumexp(1) for c in range(3)], 1)

    weight = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 5, 3)).astype(np.float32))
    ours = cache.scores(asked, (9.0, 30.0), k)[:, :, :3]
    # Of the 7 nearest, a class may have none: it has no gradient, and would give none of a number's.
    weight = weight * (ours > -1e29)
    (found,) = torch.autograd.grad((ours.clamp(min=-1e29) * weight).sum(), asked)
    theirs = torch.stack([by_autograd(asked, theta) for theta in (9.0, 30.0)])
    (expected,) = torch.autograd.grad((torch.where(weight != 0, theirs, 0.0) * weight).nansum(), asked)
    torch.testing.assert_close(found, expected.nan_to_num(), atol=1e-3, rtol=1e-3)

    scores, gradients = cache.score_gradients(asked.detach(), 30.0, k)
    torch.testing.assert_close(scores[:, :3], ours[1])
    torch.testing.assert_close(torch.einsum("bc,bcd->bd", weight[1], gradients[:, :3]), cached_part(cache, weight, k))


def cached_part(cache: KeyCache, weight: torch.Tensor, k: int | None) -> torch.Tensor:
    asked = torch.from_numpy(queries()).requires_grad_()
    (gradient,) = torch.autograd.grad((cache.scores(asked, (30.0,), k)[0, :, :3] * weight[1]).sum(), asked)
    return gradient


@pytest.mark.parametrize("k", ["bundle", None])
def test_models_say_what_the_bundle_says(bundle: Bundle, k: str | None) -> None:
    models = Models.of(bundle, k=k, theta=40.0, lam=0.3, cache_theta=11.0)
    images = np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    logits, keys = bundle.engine.encode(images)
    if k is None:
        cache = exact_vote(keys, bundle.store.chunks(), (40.0, 11.0), 3)[0]
    else:
        near = bundle.store.search(keys, bundle.manifest.k or 0)
        cache = np.stack([vote(near.similarities, near.values, theta, 3) for theta in (40.0, 11.0)])
    found = models(torch.from_numpy(images))
    np.testing.assert_allclose(found.network, softmax(logits), atol=1e-4)
    np.testing.assert_allclose(found.mixed, mix(softmax(logits), cache[0], 0.3), atol=1e-3)
    np.testing.assert_allclose(found.cache_only, cache[1], atol=1e-3)
    encoded = models.encode(torch.from_numpy(images).float())
    for name, probabilities in zip(("network", "mixed", "cache_only"), found, strict=True):
        torch.testing.assert_close(models.log_opinion(name, *encoded, models.k).exp(), probabilities)


def test_the_gradient_reaches_the_pixels_of_a_sure_answer(bundle: Bundle) -> None:
    models = Models.of(bundle, k=None, theta=5000.0, lam=1.0, cache_theta=5000.0)
    image = torch.full((1, 32, 32, 3), 90.0).requires_grad_()
    answer = models.log_opinion("cache_only", *models.encode(image), None)
    assert float(answer.detach().max().exp()) == 1.0
    (gradient,) = torch.autograd.grad(answer.min(), image)
    assert gradient.isfinite().all()
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_of_the_mixture_have_gradients(bundle: Bundle, lam: float) -> None:
    models = Models.of(bundle, k=1, lam=lam)
    image = torch.full((1, 32, 32, 3), 90.0).requires_grad_()
    answer = models.log_opinion("mixed", *models.encode(image), 1)
    (gradient,) = torch.autograd.grad(answer.max(), image)
    assert gradient.isfinite().all()


def test_a_bundle_of_the_graph_alone_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    folder = root / (root / "CURRENT").read_text().strip()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["network.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"has no network.safetensors, .* index with --network"):
        Models.of(open_bundle(root))


def test_parameters_and_memory_are_checked_first(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="lam must"):
        Models.of(bundle, lam=2.0)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryLimitError, match=r"the exact sum over .* float16"):
        Models.of(bundle)
    assert Models.of(bundle, keeping="stored").cache.keys is None
