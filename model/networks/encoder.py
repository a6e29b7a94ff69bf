"""The encoder: a network and a key recipe as one PyTorch module, and its export as one ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own customary name
from torch import Tensor, nn

from secondlook.model.errors import EngineError, NetworkError, RecipeError
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.recipe import Recipe

EXPORT_TOLERANCE = 1e-3


class Encoder(nn.Module):
    """Images (B,H,W,3) uint8 -> logits (B,C) and unit keys (B,D), both float32; pixel normalisation included.

    Raises:
        RecipeError: a layer that the network does not have, or a projection that does not fit the recipe.
        NetworkError: the network's pixel statistics are not known.
    """

    def __init__(self, network: ResNet, recipe: Recipe, projection: Tensor | None = None) -> None:
        super().__init__()
        if not network.has_pixel_statistics:
            raise NetworkError("the network's pixel statistics are not known yet: index a dataset with it first")
        if (recipe.reduce is None) != (projection is None):
            raise RecipeError("a recipe with reduce needs its fitted projection, and one without has none")
        network.check_layers(recipe.all_layers)
        self.network, self.recipe = network, recipe
        self.projection: Tensor | None
        self.register_buffer("projection", projection)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and keys."""
        logits, seen = self.network.activations(self.network.normalize(images), self.recipe.all_layers)
        return logits, self.keys(seen)

    def keys(self, seen: dict[str, Tensor]) -> Tensor:
        """Keys (B,D) from the activations of the recipe's layers."""
        pools = self.recipe.pool or (None,) * len(self.recipe.layers)
        parts = [_flat(seen[name], side) for name, side in zip(self.recipe.layers, pools, strict=True)]
        key = F.normalize(torch.cat(parts, dim=1), dim=1)
        if self.recipe.extra is None:
            return self._reduced(key)
        extra = self.recipe.extra_weight * F.normalize(_flat(seen[self.recipe.extra], None), dim=1)
        if self.recipe.reduce_extra:
            return self._reduced(F.normalize(torch.cat((key, extra), dim=1), dim=1))
        return F.normalize(torch.cat((self._reduced(key), extra), dim=1), dim=1)

    def _reduced(self, key: Tensor) -> Tensor:
        return key if self.projection is None else F.normalize(key @ self.projection.to(key.dtype), dim=1)

    def export(self, path: Path, size: tuple[int, int]) -> None:
        """Write the ONNX graph (inputs ``images``, outputs ``logits`` and ``keys``) and check it against this module.

        Raises:
            EngineError: the graph's answers differ by more than 1e-3, or 1e-3 of the largest where that is above 1.
        """
        self.eval()
        # Two images: an export for one would take a batch of one as a constant.
        images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                self,
                (images,),
                input_names=["images"],
                output_names=["logits", "keys"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(str(path))
        _forget_where(path)
        from secondlook.model.networks.engines import OnnxEngine

        more = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, *size, 3), dtype=np.uint8))
        with torch.inference_mode():
            logits, keys = self(more)
        encoding = OnnxEngine(path).encode(more.numpy())
        for name, ours, theirs in (("logits", encoding.logits, logits), ("keys", encoding.keys, keys)):
            difference = float(np.abs(ours - theirs.numpy()).max())
            # Logits of noise can reach tens of thousands, where float32 itself has steps of 0.004.
            if not difference <= EXPORT_TOLERANCE * max(1.0, float(theirs.abs().max())):
                raise EngineError(f"the exported encoder's {name} differ from PyTorch's by {difference:.2g}")


def _forget_where(path: Path) -> None:
    """Take the exporter's notes out of a graph: they name files of the machine that it was exported on."""
    import onnx

    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    onnx.save(model, str(path))


def _flat(activation: Tensor, side: int | None) -> Tensor:
    if activation.ndim == 4 and side is not None:
        activation = F.adaptive_avg_pool2d(activation, side)
    return activation.flatten(1)


def fit_projection(features: Tensor, numbers: int) -> Tensor:
    """An uncentred PCA: unit features (N,F) -> projection (F,numbers) float16 of the largest singular directions.

    Raises:
        RecipeError: fewer features, or fewer samples, than numbers asked for.
    """
    if numbers > min(features.shape):
        raise RecipeError(
            f"a key of {numbers} numbers cannot be fitted on {features.shape[0]:,} images with {features.shape[1]:,} "
            f"features: reduce to at most {min(features.shape):,}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, _, directions = torch.svd_lowrank(features, q=min(numbers + 32, *features.shape), niter=6)
    return directions[:, :numbers].half()
