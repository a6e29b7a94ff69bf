"""What an earlier index of a root measured of the same network, where that holds for the images at hand too."""

from __future__ import annotations

import logging
from pathlib import Path

from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.fitting.drawn import Drawn
from secondlook.model.bundles.files import FEATURES, features_of, read_manifest
from secondlook.model.bundles.root import CURRENT, active_generation
from secondlook.model.errors import BundleError
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.proof import PreprocessProof

log = logging.getLogger(__name__)

ASKED = 200
"""Images of which it is looked whether the earlier index had them."""
MOSTLY = 0.5
"""The share of them from which on they are the same photos."""


def proof_before(root: Path, network: OnnxNetwork, drawn: Drawn, *, may_mirror: bool) -> PreprocessProof | None:
    """What was measured of a network whose logits are not used, of mostly these images; None = measure anew.

    ``may_mirror`` is as for a choice of the geometry now. Why it is measured anew, where there was such a bundle, is
    said.
    """
    if not (root / CURRENT).exists():
        return None
    try:
        manifest = read_manifest(root, active_generation(root))
    except BundleError:
        return None
    proof, features = manifest.proof, features_of(manifest)
    same = manifest.head != "network" and manifest.network.sha256 == network.graph.weights_sha256
    if not same or proof is None or not proof.geometry or features is None:
        return None
    name = manifest.generation
    if proof.declared != network.preprocess:
        log.warning("geometry is measured anew: generation %s was made with another preprocessing", name)
        return None
    if proof.taken.mirrored and not may_mirror:
        log.warning("geometry is measured anew: generation %s looks at mirrored images, which are to be cached", name)
        return None
    some = drawn.positions[:ASKED]
    known = _known(KeptFeatures(root / FEATURES / features, manifest.store.dim), drawn, some)
    if known < MOSTLY * len(some):
        log.warning("geometry is measured anew: of %d photos generation %s knows %d", len(some), name, known)
        return None
    log.warning(
        "geometry: %s, as measured for generation %s, which knows %d of %d photos",
        *(proof.taken.views, name, known, len(some)),
    )
    return proof


def _known(kept: KeptFeatures, drawn: Drawn, positions: tuple[int, ...]) -> int:
    found = 0
    for position in positions:
        content = drawn.dataset.content(position)
        if content is not None and kept.find(content.digest, mirrored=False, picture=False) is not None:
            found += 1
    return found
