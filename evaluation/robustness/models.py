"""Network, mixture and cache alone as differentiable functions of the image: what attacks and Jacobians are made with.

The encoder is the one that the server's graph was exported from, and the keys are the bundle's own, so these are the
server's models. What differs is that all keys are compared, where the server may look at a part of them.

The vote is computed from each class's score, which is to the cache what a logit is to the network::

    score_c(q) = log sum of exp(theta q.k_i) over entries i of class c,      p_cache = softmax(score)
    d score_c / d q = theta * sum of w_i k_i over the same entries,          w = their softmax within the class

Scores keep their gradient where the probability itself has been rounded to 0 or 1; an attack that lost it there would
report a robustness that is not one (Athalye et al., 2018, 'Obfuscated gradients give a false sense of security').
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from torch import Tensor, nn

from secondlook.evaluation.fit_grid import cache_only_theta
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.files import NETWORK, require_module
from secondlook.model.cache import check_parameters, class_weights
from secondlook.model.memory import check_memory
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.file import load_network
from secondlook.model.stores.store import Store, parts

Name = Literal["network", "mixed", "cache_only"]
NAMES: tuple[Name, ...] = get_args(Name)
Keeping = Literal["float32", "float16", "stored"]
"""How keys are held: as they are, at half the memory, or not at all (read from the store for each batch)."""

NO_ENTRY = -1e30
"""Score of a class that no voting entry is of: finite, because the gradient of a log of 0 is not a number."""

WORKING_BYTES = 1 << 30
"""Allowed for a batch's similarities and activations."""


class Opinions(NamedTuple):
    """What the three models say of B images: probabilities (B,C) each."""

    network: Tensor
    mixed: Tensor
    cache_only: Tensor


class KeyCache(nn.Module):
    """A store's keys, for scores that are differentiable in the query.

    Raises:
        MemoryLimitError: the keys do not fit into memory as asked for.
    """

    def __init__(
        self, store: Store, classes: int, keeping: Keeping = "float32", device: str = "cpu", known: int | None = None
    ) -> None:
        """Keys of so many classes, of which the network knows the first ``known`` (None = all)."""
        super().__init__()
        self.count, self.dim, self.classes = store.count, store.dim, classes
        counts = np.bincount(store.values, minlength=classes)
        self._by_class = class_weights(counts, classes if known is None else known)
        values = torch.from_numpy(store.values)
        order = torch.argsort(values, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(self.count)
        self.place: Tensor
        self.register_buffer("place", place, persistent=False)
        """(N,) an entry's column in similarities, where entries of a class stand side by side."""
        ends = torch.cumsum(torch.bincount(values, minlength=classes), 0).tolist()
        starts = [0, *ends[:-1]]
        self.runs = [(c, slice(a, b)) for c, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a]
        """Classes that have entries, and their columns."""
        self._store = store
        self.keys: Tensor | None
        if keeping == "stored":
            self.register_buffer("keys", None)
            return
        dtype = torch.float32 if keeping == "float32" else torch.float16
        remedy = "hold them as float16, at half of it" if keeping == "float32" else "read them from the store"
        size = self.count * self.dim * dtype.itemsize
        if device == "cpu":
            check_memory(
                size + WORKING_BYTES, f"the exact sum over {self.count:,} keys of {self.dim:,} numbers", remedy
            )
        keys = torch.empty((self.count, self.dim), dtype=dtype, device=device)
        done = 0
        for chunk, _ in store.chunks():
            # Held in the order of their columns: similarities then come out as they are wanted.
            keys[place[done : done + len(chunk)]] = torch.from_numpy(chunk).to(keys)
            done += len(chunk)
        self.register_buffer("keys", keys, persistent=False)

    def chunks(self) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """Yield columns of entries in similarities and their keys (n,D) float32, a chunk at a time."""
        if self.keys is None:
            start = 0
            for chunk, _ in self._store.chunks():
                columns = self.place[start : start + len(chunk)]
                yield columns, torch.from_numpy(chunk).to(self.place.device)
                start += len(chunk)
        elif self.keys.dtype == torch.float32:
            yield slice(0, self.count), self.keys
        else:
            for part in parts(self.count, self.dim):
                yield part, self.keys[part].float()

    def similarities(self, queries: Tensor) -> Tensor:
        """Return inner products (B,N) of queries (B,D), those with one class's entries side by side (``runs``)."""
        found = queries.new_empty((len(queries), self.count))
        for columns, keys in self.chunks():
            found[:, columns] = queries @ keys.T
        return found

    def combine(self, coefficients: Tensor) -> Tensor:
        """Sum keys to (B,D), each entry's times its coefficient (B,N), in the columns of ``similarities``."""
        total = coefficients.new_zeros((len(coefficients), self.dim))
        for columns, keys in self.chunks():
            total += coefficients[:, columns] @ keys
        return total

    def scores(self, queries: Tensor, thetas: Sequence[float], k: int | None = None) -> Tensor:
        """Return each class's score (T,B,C) under each theta, for queries (B,D); differentiable in the queries.

        Over all entries, or the k nearest: the gradient then knows nothing of entries beyond them. Memory is that of
        T x B x N numbers.
        """
        scores: Tensor = _Scores.apply(queries, self, tuple(thetas), k)
        return scores

    def score_gradients(self, queries: Tensor, theta: float, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scores (B,C) and their gradients in the query (B,C,D), for the cost of one pass over the keys more."""
        scores, (shares,) = self._shares(queries, (theta,), k)
        gradients = queries.new_zeros((len(queries), self.classes, self.dim))
        for part, keys in self.chunks():
            columns = torch.arange(part.start, part.stop) if isinstance(part, slice) else part
            columns = columns.to(keys.device)
            for c, run in self.runs:
                among = ((columns >= run.start) & (columns < run.stop)).nonzero()[:, 0]
                gradients[:, c] += shares[:, columns[among]] @ keys[among]
        return scores[0], theta * gradients

    def _shares(self, queries: Tensor, thetas: tuple[float, ...], k: int | None) -> tuple[Tensor, list[Tensor]]:
        """Scores (T,B,C), and for each theta every entry's share (B,N) of its own class's vote."""
        similarities = self.similarities(queries)
        if k is not None and k < self.count:
            least = similarities.topk(k, dim=1).values[:, -1:]
            similarities.masked_fill_(similarities < least, -torch.inf)
        scores = queries.new_full((len(thetas), len(queries), self.classes), NO_ENTRY)
        all_shares = []
        for t, theta in enumerate(thetas):
            shares = similarities * theta
            for c, run in self.runs:
                score = shares[:, run].logsumexp(1, keepdim=True).clamp_(min=NO_ENTRY)
                shares[:, run] = shares[:, run].sub_(score).exp_()
                scores[t, :, c] = score[:, 0] + (0.0 if self._by_class is None else math.log(self._by_class[c]))
            all_shares.append(shares)
        return scores, all_shares


class _Scores(torch.autograd.Function):
    """Scores with a gradient written out: autograd would keep every chunk of keys, converted, until it was asked."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, cache: KeyCache, thetas: tuple[float, ...], k: int | None) -> Tensor:
        scores, shares = cache._shares(queries, thetas, k)
        if ctx.needs_input_grad[0]:
            ctx.cache, ctx.thetas = cache, thetas
            ctx.save_for_backward(*shares)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        coefficients = torch.zeros_like(ctx.saved_tensors[0])
        for theta, shares, weight in zip(ctx.thetas, ctx.saved_tensors, gradient, strict=True):
            for c, run in ctx.cache.runs:
                coefficients[:, run] += shares[:, run] * (theta * weight[:, c : c + 1])
        return ctx.cache.combine(coefficients), None, None, None


class Models(nn.Module):
    """Network, mixture and cache alone; images are (B,H,W,3), uint8 or float between 0 and 255."""

    def __init__(
        self, encoder: Encoder, cache: KeyCache, theta: float, lam: float, k: int | None, cache_theta: float
    ) -> None:
        super().__init__()
        self.encoder, self.cache = encoder, cache
        self.theta, self.lam, self.k, self.cache_theta = theta, lam, k, cache_theta
        self.eval().requires_grad_(False)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        k: int | Literal["bundle"] | None = "bundle",
        theta: float | None = None,
        lam: float | None = None,
        cache_theta: float | None = None,
        keeping: Keeping = "float32",
        device: str = "cpu",
    ) -> Self:
        """Open a bundle's models under its own parameters, where no others are given; k = None sums over all entries.

        Raises:
            BundleError: the bundle has no network in PyTorch's form, only the exported graph.
            MemoryLimitError: the keys do not fit into memory.
            ParameterError: theta, lam or k is out of its range.
        """
        manifest = bundle.manifest
        require_module(manifest, "gradients are taken of")
        theta = manifest.theta if theta is None else theta
        lam = manifest.lam if lam is None else lam
        cache_theta = cache_only_theta(manifest) if cache_theta is None else cache_theta
        chosen = manifest.k if k == "bundle" else k
        check_parameters(theta, lam, chosen)
        check_parameters(cache_theta, lam, chosen)
        file = load_network(bundle.path / NETWORK)
        encoder = Encoder(file.network, manifest.recipe, file.projection)
        known = len(manifest.network_classes)
        cache = KeyCache(bundle.store, len(manifest.classes), keeping, device, known)
        # With channels last, a processor's convolutions take two thirds of the time.
        models = cls(encoder, cache, theta, lam, chosen, cache_theta).to(device)
        models.encoder.to(memory_format=torch.channels_last)
        return models

    def forward(self, images: Tensor) -> Opinions:
        """Return probabilities (B,C) of all three models."""
        return self.opinions(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B,C) and unit keys (B,D)."""
        return self.encode_normalized(self.encoder.network.normalize(images))

    def encode_normalized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for what the network takes: normalised pixels (B,3,H,W)."""
        logits, seen = self.encoder.network.activations(x, self.encoder.recipe.all_layers)
        # Classes that the network does not know, taught to the cache alone.
        logits = F.pad(logits, (0, self.cache.classes - logits.shape[1]), value=NO_ENTRY)
        return logits, self.encoder.keys(seen)

    def vote(self, keys: Tensor, theta: float) -> Tensor:
        """Return p_cache (B,C) of queries (B,D)."""
        return self.cache.scores(keys, (theta,), self.k)[0].softmax(1)

    def opinions(self, logits: Tensor, keys: Tensor) -> Opinions:
        """Return probabilities (B,C) of all three models, from the encoder's outputs."""
        scores = self.cache.scores(keys, tuple(dict.fromkeys((self.theta, self.cache_theta))), self.k)
        network, cache = logits.softmax(1), scores[0].softmax(1)
        return Opinions(network, (1 - self.lam) * network + self.lam * cache, scores[-1].softmax(1))

    def log_opinion(self, name: Name, logits: Tensor, keys: Tensor, k: int | None) -> Tensor:
        """Return log-probabilities (B,C) of one model, whose gradient outlives rounding to 0 and 1."""
        network = F.log_softmax(logits, 1)
        if name == "network":
            return network
        theta = self.theta if name == "mixed" else self.cache_theta
        cache = F.log_softmax(self.cache.scores(keys, (theta,), k)[0], 1)
        if name == "cache_only":
            return cache
        lam = torch.tensor(self.lam, dtype=logits.dtype, device=logits.device)
        return torch.logaddexp(torch.log1p(-lam) + network, torch.log(lam) + cache)
