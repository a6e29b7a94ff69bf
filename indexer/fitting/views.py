"""How images are best shown to a network whose logits are not used: its geometry, the mirrored copy, one size up.

Nothing that was trained depends on it, so it is chosen: first the geometry, then whether the mean with the mirrored
copy is worth twice the work, then whether a larger size is worth its own (docs/decisions/018).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2

from secondlook.indexer.fitting.race import Need, Race, Racer, ranked
from secondlook.model.errors import NetworkError, RecipeError
from secondlook.model.images.geometry import MOST_SIDE, Geometry
from secondlook.model.networks.onnx_network import OnnxNetwork, layer_of
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.proof import Tried

AS_FAST = Need(clearly=1.5, matters=0, images=50)
"""What another geometry needs: it costs nothing, and no mistake is claimed."""
COSTLIER = Need(clearly=2.0, matters=0.002, images=50)
"""What a candidate needs that takes more of the network's time: to be better by more than chance."""
PATIENCE = 1.0
"""Standard errors: a costlier one that is so much worse is not tried on more images."""
LARGER = 288 / 224
"""One size up."""


@dataclass(frozen=True)
class Choice:
    """What there is to choose from."""

    may_mirror: bool = True
    """Whether the mean with the mirrored copy is: not where those copies are cached, whose keys would be the same."""

    def make(self, race: Race, first: Racer) -> tuple[tuple[Tried, ...], Tried | None]:
        """What was tried, and what is better than the first, which is as declared; None = nothing is."""
        tried = [first, *others(first)]
        answer, place = race.run(tried, AS_FAST)
        best = tried[place] if answer == "beaten" else first
        for costlier in (self._mirrored, _larger):
            racer = costlier(best)
            if racer is None:
                continue
            tried.append(racer)
            answer, _ = race.run([best, racer], COSTLIER, PATIENCE)
            if best is not first:
                for one in (best, racer):  # that race held them to each other
                    race.hold(first, one, on_all=False)
            best = racer if answer == "beaten" else best
        if best is not first:
            race.hold(first, best, on_all=True)
        return ranked(tried), None if best is first else best.tried(first)

    def _mirrored(self, best: Racer) -> Racer | None:
        if not self.may_mirror or best.preprocess.mirrored:
            return None
        preprocess = best.preprocess.model_copy(update={"mirrored": True})
        return Racer(f"{best.said}, mean with the mirrored photo", best.network, preprocess)


def others(first: Racer) -> list[Racer]:
    """A candidate's other geometries of the same size."""
    preprocess = first.preprocess
    return [
        Racer(said, first.network, preprocess.model_copy(update={"geometry": geometry}))
        for said, geometry in geometries(preprocess.geometry)[1:]
    ]


def geometries(declared: Geometry) -> list[tuple[str, Geometry]]:
    """The declared geometry, and others of the same size."""
    same = replace(declared, rule="crop", crop_share=1.0, fill=(0, 0, 0))
    found = [("declared", declared)]
    for said, made in (
        ("crop .875", replace(same, crop_share=0.875)),
        ("crop", same),
        ("squash", replace(same, rule="squash")),
        ("pad", replace(same, rule="pad")),
    ):
        if (made.rule, made.scaled) != (declared.rule, declared.scaled):
            found.append((said, made))
    return found


def one_size_up(network: OnnxNetwork) -> Preprocess | None:
    """The network's preprocessing at a larger size; None where its graph takes no other, or fails at it."""
    if network.graph.input.size is not None:
        return None
    stride = _stride(network)
    height, width = (max(side + stride, round(side * LARGER / stride) * stride) for side in network.size)
    if max(height, width) > MOST_SIDE:
        return None
    made = network.preprocess.with_geometry(height=height, width=width)
    try:
        larger = network.taking(made)
        seen = larger.activations(larger.probe(2), [larger.default_layer]).seen[larger.default_layer]
    except (NetworkError, RecipeError):
        return None
    layer = layer_of(seen.shape[1:], larger.size)
    return made if layer is not None and layer.kind == network.layers()[network.default_layer].kind else None


def _larger(best: Racer) -> Racer | None:
    preprocess = one_size_up(best.network)
    return None if preprocess is None else Racer(f"{best.said}, one size up", best.network, preprocess)


def _stride(network: OnnxNetwork) -> int:
    """Pixels between two positions of the last of its layers that has several: a power of 2, or a patch."""
    side = network.size[0]
    rows = [layer.positions[0] for layer in network.layers().values() if layer.positions[0] > 1]
    if not rows:
        return 32
    kinds = {layer.kind for layer in network.layers().values()}
    if "tokens" in kinds and side % min(rows) == 0:
        return side // min(rows)
    return int(2 ** round(log2(side / min(rows))))
