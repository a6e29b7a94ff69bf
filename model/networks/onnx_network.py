"""Any ONNX classifier or backbone as a Network, on ONNX Runtime. Needs onnx, never torch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import NetworkError
from secondlook.model.networks.declared import USUAL_SIZE, assumed, of_onnx, read_json
from secondlook.model.networks.network import Activations, Layer, check_layers, mean_of
from secondlook.model.networks.onnx_batch import free_batch, written
from secondlook.model.networks.onnx_graph import EXPORT, ImageInput, OnnxGraph, read_graph
from secondlook.model.networks.onnx_head import Head, check_shapes, other_task, token_prefix
from secondlook.model.networks.onnx_memory import AT_ONCE, check_network_memory
from secondlook.model.networks.onnx_session import Runner
from secondlook.model.networks.onnx_walk import Walk
from secondlook.model.networks.onnx_weights import Weighted
from secondlook.model.networks.preprocess import Preprocess

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Of the largest logit: how far apart two ways of running one network may be."""
SIZES = (
    USUAL_SIZE,
    *((side, side) for side in (256, 384, 299, 32, 64, 96, 128, 160, 192, 240, 288, 320, 448, 512, 28)),
)
"""Tried in this order where a graph takes any size and nobody says one."""
_NO_LAYERS = frozenset(
    {
        *("Cast", "Constant", "Dropout", "Expand", "Gather", "Identity", "Pad", "QuantizeLinear", "Reshape", "Shape"),
        *("Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Transpose", "Unsqueeze", "ReduceMean", "Pow", "Sub", "Div"),
    }
)
"""What makes no layer of its own: parts of others, or another view of one."""


class OnnxNetwork:
    """A graph that was read, held to a few runs; preprocessing may be given, or a JSON file of it.

    Raises:
        NetworkError: it does not run, does something else than to classify or embed images, takes a number of images
            that cannot be freed, or takes images of another size than the preprocessing says.
        MemoryLimitError: it needs more memory than is free.
    """

    def __init__(self, graph: OnnxGraph, preprocess: Preprocess | Path | None = None, name: str | None = None) -> None:
        self.name = name or graph.name
        if isinstance(preprocess, Path):
            preprocess = read_json(preprocess, graph.input.size)
        declared = preprocess or of_onnx(graph.metadata, graph.input.size, graph.name)
        check_network_memory(graph.model, self.name)
        self.graph, self.size = _sized(graph, declared)
        self._runner = Runner(self.graph.weighted, graph.name)
        self.was_freed = False
        if self.graph.input.batch is not None:
            self._free(self.graph.input.batch)
        self.preprocess = _completed(declared, self.graph, self.size)
        shapes = self._shapes(self.graph.own_outputs)
        self.head: Head | None = self.graph.head
        check_shapes(graph.name, self.head is not None, list(shapes.values()), self.size)
        self.is_binary = False
        self.classes = self._classes()
        self._layers: dict[str, Layer] | None = None
        self.default_layer = self.head.input if self.head else self._features(shapes)

    def layers(self) -> Mapping[str, Layer]:
        """Tensors of the images, each with a shape that a key can be made of."""
        if self._layers is None:
            self._layers = self._listed()
        return self._layers

    def taking(self, preprocess: Preprocess) -> OnnxNetwork:
        """The same network for images that are preprocessed otherwise.

        Raises:
            NetworkError: it takes no images of that size.
        """
        other = copy.copy(self)
        other.preprocess = preprocess
        if preprocess.geometry.size != self.size:
            other.graph, other.size = _sized(self.graph, preprocess)
            other._layers = None
        return other

    def activations(self, images: NDArray[np.uint8], names: Sequence[str] = ()) -> Activations:
        """One run of the graph; two, whose mean is taken, where the mirrored image is asked too."""
        found = self.activations_of(self.given(images), names)
        if not self.preprocess.mirrored:
            return found
        return mean_of(found, self.activations_of(self.given(images[:, :, ::-1]), names))

    def given(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """What the graph takes for images (B,height,width,3)."""
        return self.preprocess.arithmetic.apply(images).astype(self.graph.input.dtype)

    def activations_of(self, values: NDArray[Any], names: Sequence[str] = ()) -> Activations:
        """The same for what the graph takes.

        Raises:
            RecipeError: there is no such layer.
            NetworkError: it does not run.
        """
        if unknown := [name for name in names if name != self.default_layer]:
            check_layers(unknown, self.layers(), self.name)
        wanted = [*([self.head.logits] if self.head else []), *names]
        found = self._runner.run(self.graph.input.name, values, wanted or [self.default_layer])
        logits = None if self.head is None else self._logits(found[self.head.logits])
        return Activations(logits, {name: found[name].astype(np.float32) for name in names})

    def _logits(self, tensor: NDArray[Any]) -> Floats:
        logits = tensor.reshape(len(tensor), -1).astype(np.float32)
        return np.concatenate((np.zeros_like(logits), logits), axis=1) if self.is_binary else logits

    def probe(self, count: int, seed: int = 0) -> NDArray[np.uint8]:
        """Images of smooth noise: (count,height,width,3)."""
        return smooth_noise(count, self.size, seed)

    def _free(self, batch: int) -> None:
        """Take any number of images where the graph was exported for so many.

        Raises:
            NetworkError: that number is baked in.
        """
        taken = self.graph.input
        values = np.random.default_rng(0).random((5 * batch, *_dims(taken.layout, self.size))).astype(taken.dtype)
        outputs = [self.graph.outputs[0] if self.graph.head is None else self.graph.head.logits]
        where = written(self.graph.model, taken.name)
        known = self._runner.run(taken.name, values[:batch], [*where, *outputs])
        before = np.concatenate(
            [
                self._runner.run(taken.name, values[i : i + batch], outputs)[outputs[0]]
                for i in range(0, 5 * batch, batch)
            ]
        )
        for images_first in (True, False):
            model = free_batch(self.graph.model, taken.name, batch, known, images_first=images_first)
            freed = Runner(Weighted(model, self.graph.weights), self.name)
            try:
                together = freed.run(taken.name, values, outputs)[outputs[0]]
                alone = freed.run(taken.name, values[:1], outputs)[outputs[0]]
            except NetworkError:
                continue
            if _is_same(together, before) and _is_same(alone, before[:1]):
                self._runner, self.was_freed = freed, True
                self.graph.model.CopyFrom(model)
                return
        raise _baked(self.name, batch)

    def _shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Without the batch, of those that have one."""
        found = self._runner.run(self.graph.input.name, self.given(self.probe(2)), names)
        return {
            name: tensor.shape[1:]
            for name, tensor in found.items()
            if isinstance(tensor, np.ndarray) and tensor.ndim >= 2 and len(tensor) == 2 and tensor.dtype.kind == "f"
        }

    def _classes(self) -> tuple[str, ...] | None:
        names = self.graph.class_names
        for head in self.graph.heads:
            shape = self._shapes([head.logits]).get(head.logits)
            if shape is None or sum(side > 1 for side in shape) > 1:
                continue
            count = int(np.prod(shape))
            self.is_binary = count == 1
            self.head, count = head, max(2, count)
            if names is not None and len(names) != count:
                log.warning(
                    "%s names %d classes, but gives %d logits: its names are not used", self.name, len(names), count
                )
                names = None
            return names or tuple(map(str, range(count)))
        self.head = None
        self._check_backbone()
        return None

    def _check_backbone(self) -> None:
        """Refuse a classifier whose last layer is not found: as a backbone it would make keys of its answers."""
        found = self._runner.run(self.graph.input.name, self.given(self.probe(2)), self.graph.own_outputs)
        for tensor in found.values():
            if not isinstance(tensor, np.ndarray) or tensor.ndim != 2 or tensor.shape[1] < 2:
                continue
            are_shares = tensor.min() >= 0 and bool(np.abs(tensor.sum(axis=1, dtype=np.float64) - 1).max() < 1e-3)
            if are_shares or len(self.graph.class_names or ()) == tensor.shape[1]:
                what = "probabilities" if are_shares else f"a number for each of its {tensor.shape[1]:,} classes"
                raise NetworkError(
                    f"{self.name} gives {what}, but no last linear layer that makes them: export it with the logits of "
                    f"one network as its output ({EXPORT})"
                )

    def _features(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The output of a backbone that keys are made of: a vector before anything else."""
        known = {name: layer for name, shape in shapes.items() if (layer := layer_of(shape, self.size)) is not None}
        for kind in ("vector", "tokens", "feature map"):
            for name, layer in known.items():
                if layer.kind == kind and layer.channels > 1:
                    return name
        raise other_task(self.name, "gives nothing that is an image's features")

    def _listed(self) -> dict[str, Layer]:
        graph, walk = self.graph.model.graph, Walk(self.graph.model.graph, self.graph.input.name)
        head = {self.head.logits, *([] if self.head is None else self._after(walk, self.head))} if self.head else set()
        named = self.graph.outputs[len(self.graph.own_outputs) :]
        wanted = named or [
            output
            for node in graph.node
            if node.op_type not in _NO_LAYERS
            for output in node.output[:1]
            if output in walk.seen
        ]
        names = [name for name in wanted if name not in head]
        if self.default_layer not in names:
            names.append(self.default_layer)
        images = self.given(self.probe(2))
        found: dict[str, Layer] = {}
        for start in range(0, len(names), AT_ONCE):
            for name, tensor in self._runner.run(self.graph.input.name, images, names[start : start + AT_ONCE]).items():
                is_numbers = isinstance(tensor, np.ndarray) and tensor.dtype.kind == "f" and tensor.ndim >= 2
                if is_numbers and len(tensor) == 2 and (layer := layer_of(tensor.shape[1:], self.size)) is not None:
                    found[name] = layer
        return found

    def _after(self, walk: Walk, head: Head) -> set[str]:
        """Tensors that are made of the head's input alone by the head and what is behind it."""
        behind, tensors = set(), [name for node in walk.consumers(head.input) for name in node.output]
        while tensors:
            behind.add(tensor := tensors.pop())
            tensors.extend(name for node in walk.consumers(tensor) for name in node.output if name not in behind)
        return behind if head.logits in behind else set()


def open_onnx(path: Path, preprocess: Preprocess | None = None, name: str | None = None) -> OnnxNetwork:
    """A network in an ONNX file.

    Raises:
        NetworkError: as for ``read_graph`` and ``OnnxNetwork``.
    """
    return OnnxNetwork(read_graph(path), preprocess, name)


def smooth_noise(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Images (count,height,width,3) that no network is surprised by more than by others."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    rows, columns = (np.arange(side) * 8 // side for side in size)
    fine = random.normal(0, 12, (count, *size, 3))
    return np.clip(coarse[:, rows][:, :, columns] + fine, 0, 255).astype(np.uint8)


def layer_of(shape: tuple[int, ...], size: tuple[int, int]) -> Layer | None:
    """What a tensor of this shape (of one image) is in a network for images of that size; None = nothing for a key."""
    if not shape or min(shape) < 1:
        return None
    if len(shape) == 1:
        return Layer(shape, "vector") if shape[0] > 1 else None
    if len(shape) == 2:
        prefix = token_prefix(shape[0], size)
        return None if prefix is None else Layer(shape, "tokens", prefix=prefix)
    if len(shape) == 3:
        first, last = (_is_map(sides, size) for sides in (shape[1:], shape[:2]))
        if first or last:
            return Layer(shape, "feature map", channels_last=not first)
    return None


def _is_map(sides: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether these may be the rows and columns of an image of that size, which layers halve and round."""
    if any(side > whole for side, whole in zip(sides, size, strict=True)):
        return False
    return abs(sides[0] / size[0] - sides[1] / size[1]) <= 1.01 / min(size) or abs(sides[0] - sides[1]) <= (
        size[0] != size[1]
    )


def _dims(layout: str, size: tuple[int, int]) -> tuple[int, int, int]:
    return (3, *size) if layout == "NCHW" else (*size, 3)


def _is_same(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    if ours.shape != theirs.shape:
        return False
    return bool(np.abs(ours - theirs).max() <= TOLERANCE * max(1e-6, float(np.abs(theirs).max())))


def _baked(name: str, batch: int) -> NetworkError:
    images = "one image" if batch == 1 else f"{batch} images"
    return NetworkError(f"{name} takes exactly {images} at a time: export it with the number free ({EXPORT})")


def _sized(graph: OnnxGraph, declared: Preprocess | None) -> tuple[OnnxGraph, tuple[int, int]]:
    """The graph, and the size at which it takes images.

    Raises:
        NetworkError: it takes them at another size than declared, or at none that was tried.
    """
    taken: ImageInput = graph.input
    wanted = None if declared is None else declared.geometry.size
    if taken.size is not None:
        if wanted is not None and wanted != taken.size:
            assert declared is not None
            raise NetworkError(
                f"{graph.name} takes images of {taken.size[0]} x {taken.size[1]}, but {declared.read_from} says "
                f"{wanted[0]} x {wanted[1]}: give another with --preprocess, or export it for that size"
            )
        return graph, taken.size
    runner = Runner(graph.weighted, graph.name)
    failed: NetworkError | None = None
    for size in [wanted] if wanted else SIZES:
        try:
            runner.run(
                taken.name, np.zeros((taken.batch or 1, *_dims(taken.layout, size)), taken.dtype), graph.outputs[:1]
            )
        except NetworkError as error:
            failed = failed or error
            continue
        return graph, size
    assert failed is not None
    raise failed


def _completed(declared: Preprocess | None, graph: OnnxGraph, size: tuple[int, int]) -> Preprocess:
    """What is declared, with what the graph itself says."""
    made = declared or assumed(size)
    if declared is None and graph.input.dtype == "uint8":
        made = made.with_arithmetic(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        made = made.model_copy(update={"read_from": f"{graph.name}: it takes samples 0..255 as they are"})
    return made.with_arithmetic(layout=graph.input.layout)
