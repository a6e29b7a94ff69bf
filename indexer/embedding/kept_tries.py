"""What a network gives for a dataset's images in each way to feed it that is tried, kept as features are.

So a run that was killed while it measured goes on where it was, and the images that the way chosen was tried on are
embedded already. What was kept of the others is of no use once there is a bundle (``PreparedEncoder.tried``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.feature_files import Found
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.model.bundles.files import FEATURES
from secondlook.model.cache import Floats
from secondlook.model.errors import NetworkError, RecipeError
from secondlook.model.networks.encoder_graph import features_id
from secondlook.model.networks.engines import Encoding
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork

BATCH = 64
"""Images that are run before it is seen whether it is time to write."""

Run = Callable[[OnnxNetwork, NDArray[np.uint8]], Encoding]


class KeptTries:
    """What is kept below a root of some images of a dataset; ``run`` gives what is not: all logits, and keys."""

    def __init__(self, root: Path, dataset: Dataset, run: Run) -> None:
        self._root, self._dataset, self._run = root, dataset, run
        self._of: dict[str, KeptFeatures] = {}
        self._names: dict[OnnxNetwork, str] = {}
        self._digests: dict[int, bytes | None] = {}
        self._new: dict[str, set[bytes]] = {}

    @property
    def tried(self) -> frozenset[str]:
        """What each way's features are called."""
        return frozenset(self._of)

    def ahead(self, name: str) -> frozenset[bytes]:
        """Digests of the images of which those were made now."""
        return frozenset(self._new.get(name, ()))

    def see(
        self,
        network: OnnxNetwork,
        positions: Sequence[int],
        decode: Callable[[Sequence[int]], list[NDArray[np.uint8]]],
        *,
        keys_alone: bool,
    ) -> Encoding:
        """What a network gives for images at positions (n,), n >= 1: those that are not known are decoded and run.

        With ``keys_alone``, logits are (n,0).
        """
        name = self._name(network)
        kept = self._of[name]
        digests = [self._digest(position) if kept.is_kept else None for position in positions]
        found = [self._find(kept, one, keys_alone) for one in digests]
        rows = [row for row, one in enumerate(found) if one is None]
        images = decode([positions[row] for row in rows]) if rows else []
        made: dict[int, tuple[Floats, Floats]] = {}
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            batch = np.stack(images[start : start + BATCH])
            encoding = self._run(network, batch)
            made |= {row: (encoding.logits[i], encoding.keys[i]) for i, row in enumerate(some)}
            whole = [digest for row in some if (digest := digests[row]) is not None]
            if len(whole) == len(some) and np.isfinite(encoding.keys).all() and np.isfinite(encoding.logits).all():
                kept.keep(whole, encoding, Looks.of(batch), None, None, mirrored=False)
                self._new[name].update(whole)
        kept.flush()
        parts = [made[row] if one is None else (one.logits, one.key) for row, one in enumerate(found)]
        keys = np.stack([key for _, key in parts])
        return Encoding(
            np.empty((len(keys), 0), np.float32) if keys_alone else np.stack([logits for logits, _ in parts]), keys
        )

    def close(self) -> None:
        """Let go of what is kept, so that it may be removed."""
        for kept in self._of.values():
            kept.close()

    def _name(self, network: OnnxNetwork) -> str:
        if network not in self._names:
            try:
                name = features_id(network, default_recipe(network))
            except (NetworkError, RecipeError):  # it will be said where it is chosen
                name = ""
            encoding = self._run(network, network.probe(1))
            is_full = any(kept.is_kept and kept.is_full for kept in self._of.values())  # which is said once
            folder = None if not name or is_full else self._root / FEATURES / name
            head = f"whole {network.graph.weights_sha256}" if encoding.logits.shape[1] else ""
            self._names[network] = name
            if name not in self._of:
                self._of[name] = KeptFeatures(folder, encoding.keys.shape[1], head)
                self._new[name] = set()
        return self._names[network]

    def _find(self, kept: KeptFeatures, digest: bytes | None, keys_alone: bool) -> Found | None:
        return None if digest is None else kept.find(digest, mirrored=False, picture=False, keys_alone=keys_alone)

    def _digest(self, position: int) -> bytes | None:
        if position not in self._digests:
            content = self._dataset.content(position)
            self._digests[position] = None if content is None else content.digest
        return self._digests[position]
