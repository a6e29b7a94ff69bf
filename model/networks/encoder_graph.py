"""A network, the arithmetic of its pixels and a key recipe as one ONNX graph, by surgery on the network's own graph.

``images`` uint8 (B,H,W,3) in; ``logits`` float32 (B,C), if the network has a head, and unit ``keys`` float32 (B,D) out;
B is free. Where the mirrored images are asked too, the network runs on both, and the means of logits and of pooled
layers are taken in the graph. Where the logits are those of some of the network's classes, ``all_logits`` has all of
them. Needs onnx, never torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper

from secondlook.model.cache import Floats
from secondlook.model.errors import EngineError, RecipeError
from secondlook.model.networks.classes import Groups, of_groups
from secondlook.model.networks.engines import LIGHT, OnnxEngine
from secondlook.model.networks.keys import grid, keys_of
from secondlook.model.networks.network import Layer, check_recipe
from secondlook.model.networks.onnx_network import TOLERANCE, OnnxNetwork
from secondlook.model.networks.onnx_walk import pruned
from secondlook.model.networks.onnx_weights import Weighted, save, weights_sha256
from secondlook.model.networks.preprocess import Arithmetic
from secondlook.model.networks.recipe import Pool, Recipe

PREFIX = "network/"
_TYPE_OF = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
}


def encoder_graph(
    network: OnnxNetwork,
    recipe: Recipe,
    projection: Floats | None = None,
    *,
    head: bool = True,
    groups: Groups | None = None,
) -> Weighted:
    """The encoder; without ``head`` it has no logits, as where the network has none.

    With ``groups`` it has a logit for each of them: that of one of the network's classes, or of several together.

    Raises:
        RecipeError: the recipe does not fit the network, or the projection not the recipe.
    """
    layers = network.layers()
    check_recipe(recipe, layers, network.name)
    if (recipe.reduce is None) != (projection is None):
        raise RecipeError("a recipe with reduce needs its fitted projection, and one without has none")
    source = ModelProto()
    source.CopyFrom(network.graph.model)
    logits = network.head.logits if network.head is not None and head else None
    pruned(source, list(dict.fromkeys((*([logits] if logits else []), *recipe.all_layers))))
    given = {tensor.name for tensor in source.graph.initializer}
    inputs = [value for value in source.graph.input if value.name not in given]
    del source.graph.input[:]
    source.graph.input.extend(inputs)
    made = compose.add_prefix(source, PREFIX)
    _forget_where(made)
    graph = made.graph
    weave = _Weave(graph.initializer, is_mirrored=network.preprocess.mirrored)
    before = _arithmetic(
        weave, network.preprocess.arithmetic, network.graph.input.dtype, PREFIX + network.graph.input.name, network.size
    )
    weave.nodes = []
    if logits is not None:
        assert network.classes is not None
        _logits(weave, PREFIX + logits, len(network.classes), is_binary=network.is_binary, groups=groups)
    dim = _keys(weave, layers, recipe, projection)
    nodes = [*before, *graph.node, *weave.nodes]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *network.size, 3]))
    if logits is not None and network.classes is not None:
        widths = {"logits": len(network.classes if groups is None else groups)}
        if groups is not None:
            widths["all_logits"] = len(network.classes)
        for name, classes in widths.items():
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes]))
    graph.output.append(helper.make_tensor_value_info("keys", TensorProto.FLOAT, ["batch", dim]))
    return Weighted(made, {PREFIX + name: value for name, value in network.graph.weights.items()})


def export_encoder(
    network: OnnxNetwork,
    recipe: Recipe,
    path: Path,
    images: NDArray[np.uint8],
    projection: Floats | None = None,
    *,
    head: bool = True,
    groups: Groups | None = None,
    most_bytes: int = LIGHT,
) -> OnnxEngine:
    """Write the encoder to a file and prove it on real images (n,H,W,3), of which the first five are taken.

    Weights of ``most_bytes`` or more are written to a file beside it, called the same with ``.data`` behind.

    Raises:
        RecipeError: as for ``encoder_graph``.
        EngineError: the file does not run, or does not say what the network says.
    """
    save(encoder_graph(network, recipe, projection, head=head, groups=groups), path, most_bytes)
    engine = OnnxEngine(path)
    prove(engine, network, recipe, images[:5], projection, groups)
    return engine


def features_id(network: OnnxNetwork, recipe: Recipe, projection: Floats | None = None) -> str:
    """What keys depend on, whatever the head is, in hexadecimal: the graph that gives them, and the geometry.

    Raises:
        RecipeError: as for ``encoder_graph``.
    """
    graph = encoder_graph(network, recipe, projection, head=False)
    geometry = json.dumps(asdict(network.preprocess.geometry))
    nodes = hashlib.sha256(graph.model.SerializeToString(deterministic=True)).hexdigest()
    return hashlib.sha256(f"{nodes} {weights_sha256(graph)} {geometry}".encode()).hexdigest()


def prove(
    engine: OnnxEngine,
    network: OnnxNetwork,
    recipe: Recipe,
    images: NDArray[np.uint8],
    projection: Floats | None = None,
    groups: Groups | None = None,
) -> None:
    """Hold an encoder to its network: all images at once = each alone = the network with the recipe in numpy.

    Raises:
        EngineError: logits differ by more than 1e-3 of the largest, or keys by more than 1e-3.
    """
    logits, seen = network.activations(images, recipe.all_layers)
    expected = {"keys": keys_of(seen, network.layers(), recipe, projection)}
    if logits is not None and engine.classes:
        expected["logits"] = logits if groups is None else of_groups(logits, groups)
    together = engine.encode(images)
    alone = [engine.encode(images[i : i + 1]) for i in range(len(images))]
    for name, theirs in expected.items():
        most = TOLERANCE * max(1.0, float(np.abs(theirs).max()))
        for how, ours in (
            (f"{len(images)} images at once", getattr(together, name)),
            ("one image at a time", np.concatenate([getattr(one, name) for one in alone])),
        ):
            difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf
            if not difference <= most:
                raise EngineError(
                    f"the encoder made of {network.name} does not give the network's {name} for {how} (they differ by "
                    f"{difference:.2g}): export the network again, with the number of images free, and look at it "
                    f"with secondlook network {network.name}"
                )


class _Weave:
    """Nodes that are added to a graph, and their constants."""

    def __init__(self, initializers: Any, *, is_mirrored: bool) -> None:
        self.nodes: list[NodeProto] = []
        self.is_mirrored = is_mirrored
        """Whether the network runs on the images and on their mirrored copies behind them: (2B, ...)."""
        self._initializers, self._count = initializers, 0

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """The tensor that a new node gives."""
        if output is None:
            self._count += 1
            output = f"secondlook/{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        """A tensor that holds a value."""
        self._count += 1
        name = f"secondlook/{self._count}"
        self._initializers.append(numpy_helper.from_array(value, name))
        return name

    def averaged(self, tensor: str, wide: int) -> str:
        """(B,wide) of (B,wide), or of (2B,wide) where the mirrored copies were asked too.

        By operations that are the same in all opsets.
        """
        if not self.is_mirrored:
            return tensor
        both = self.node("Reshape", [tensor, self.constant(np.array([2, -1, wide]))])
        halves = [self.node("Gather", [both, self.constant(np.array(half))], axis=0) for half in (0, 1)]
        return self.node("Mul", [self.node("Add", halves), self.constant(np.array([0.5], np.float32))])


def _arithmetic(
    weave: _Weave, arithmetic: Arithmetic, dtype: str, output: str, size: tuple[int, int]
) -> list[NodeProto]:
    tensor = "images"
    if weave.is_mirrored:
        columns = weave.constant(np.arange(size[1])[::-1].copy())
        tensor = weave.node("Concat", [tensor, weave.node("Gather", [tensor, columns], axis=2)], axis=0)
    if arithmetic.channels == "BGR":
        tensor = weave.node("Gather", [tensor, weave.constant(np.array([2, 1, 0]))], axis=3)
    now = "uint8"
    if dtype != "uint8" or not arithmetic.is_plain:
        tensor, now = weave.node("Cast", [tensor], to=TensorProto.FLOAT), "float32"
        a, b = arithmetic.factors
        if (a != 1).any():
            tensor = weave.node("Mul", [tensor, weave.constant(a)])
        if b.any():
            tensor = weave.node("Add", [tensor, weave.constant(b)])
    if arithmetic.layout == "NCHW":
        tensor = weave.node("Transpose", [tensor], perm=[0, 3, 1, 2])
    weave.node(
        "Identity" if now == dtype else "Cast", [tensor], output, **({} if now == dtype else {"to": _TYPE_OF[dtype]})
    )
    return weave.nodes


def _logits(weave: _Weave, tensor: str, classes: int, *, is_binary: bool, groups: Groups | None) -> None:
    flat = weave.node("Flatten", [weave.node("Cast", [tensor], to=TensorProto.FLOAT)], axis=1)
    flat = weave.averaged(flat, 1 if is_binary else classes)
    whole = "logits" if groups is None else "all_logits"
    if is_binary:
        zero = weave.node("Mul", [flat, weave.constant(np.zeros(1, np.float32))])
        weave.node("Concat", [zero, flat], whole, axis=1)
    else:
        weave.node("Identity", [flat], whole)
    if groups is None:
        return
    made: str | None = None
    # By operations that are the same in all opsets: logits are few.
    for place in range(max(map(len, groups))):
        chosen = np.array([group[place] if place < len(group) else group[0] for group in groups])
        own = weave.node("Gather", [whole, weave.constant(chosen)], axis=1)
        if made is None:
            made = own
            continue
        if any(place >= len(group) for group in groups):  # which have no more classes: nothing is added
            spare = np.array([0.0 if place < len(group) else -np.inf for group in groups], np.float32)
            own = weave.node("Add", [own, weave.constant(spare)])
        largest = weave.node("Max", [made, own])
        parts = [weave.node("Exp", [weave.node("Sub", [tensor, largest])]) for tensor in (made, own)]
        made = weave.node("Add", [largest, weave.node("Log", [weave.node("Add", parts)])])
    assert made is not None
    weave.node("Identity", [made], "logits")


def _keys(weave: _Weave, layers: Mapping[str, Layer], recipe: Recipe, projection: Floats | None) -> int:
    parts = [_averaged(weave, name, layers[name], pool) for name, pool in recipe.layer_parts]
    dim = sum(layers[name].width(pool) for name, pool in recipe.layer_parts)

    def unit(tensor: str, output: str | None = None) -> str:
        return weave.node("LpNormalization", [tensor], output, axis=1, p=2)

    def reduced(tensor: str) -> str:
        if projection is None:
            return tensor
        small = weave.constant(projection.astype(np.float16))
        return unit(weave.node("MatMul", [tensor, weave.node("Cast", [small], to=TensorProto.FLOAT)]))

    key = unit(weave.node("Concat", parts, axis=1) if len(parts) > 1 else parts[0])
    wide = dim if projection is None else int(projection.shape[1])
    if recipe.extra is None:
        weave.node("Identity", [reduced(key)], "keys")
        return wide
    extra = unit(_averaged(weave, recipe.extra, layers[recipe.extra], recipe.extra_pool))
    extra = weave.node("Mul", [extra, weave.constant(np.array([recipe.extra_weight], np.float32))])
    if recipe.reduce_extra:
        both = unit(weave.node("Concat", [key, extra], axis=1))
        weave.node("Identity", [reduced(both)], "keys")
        return wide
    unit(weave.node("Concat", [reduced(key), extra], axis=1), "keys")
    return wide + layers[recipe.extra].width(recipe.extra_pool)


def _averaged(weave: _Weave, name: str, layer: Layer, pool: Pool) -> str:
    return weave.averaged(_pooled(weave, name, layer, pool), layer.width(pool))


def _pooled(weave: _Weave, name: str, layer: Layer, pool: Pool) -> str:
    tensor = weave.node("Cast", [PREFIX + name], to=TensorProto.FLOAT)
    if layer.kind == "vector" or pool in (None, "flat"):
        return weave.node("Flatten", [tensor], axis=1)
    if pool == "cls":
        return weave.node("Gather", [tensor, weave.constant(np.array(0))], axis=1)
    averages = grid(layer.positions, 1 if pool == "mean" else pool)
    if layer.kind == "tokens":
        averages = np.concatenate((np.zeros((layer.prefix, averages.shape[1]), np.float32), averages))
    elif layer.channels_last:
        tensor = weave.node("Reshape", [tensor, weave.constant(np.array([0, -1, layer.channels]))])
    else:
        tensor = weave.node("Reshape", [tensor, weave.constant(np.array([0, layer.channels, -1]))])
    if layer.kind == "tokens" or layer.channels_last:
        tensor = weave.node("Transpose", [tensor], perm=[0, 2, 1])
    return weave.node("Flatten", [weave.node("MatMul", [tensor, weave.constant(averages)])], axis=1)


def _forget_where(model: ModelProto) -> None:
    """Take notes out of a graph: exporters name files of the machine that they ran on."""
    for part in (model, model.graph, *model.graph.node):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*model.graph.initializer, *model.graph.value_info):
        del value.metadata_props[:]
    model.producer_name = "secondlook"
