"""What an index takes of memory and time, step by step: ``python -m benchmarks.index_memory``.

Images are made on the fly, a few colours of their class and a good deal of chance, and a network of two layers gives
them keys of as many numbers as asked for: embedding costs next to nothing, and all else is what ``index`` does. What
is told is anonymous memory, which no page cache can give back, beyond what the process had when it began.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.commands.shared.options import print_json
from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.memory import index_memory
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.files import read_manifest
from secondlook.model.images import Geometry, fit

GRID = 8
"""Cells of colour across an image."""
FIRST = 400
"""Images that the encoder is made with."""
TICK = 0.01
"""Seconds between two looks at the process's memory."""
SHARPNESS = 0.6
"""Of the classes' own colours, beside chance: so that some answers are wrong."""


@dataclass
class Step:
    """One step, or several of the same name."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all its threads: what other work on the machine hardly changes."""
    peak_bytes: int = 0
    """Anonymous memory at its widest, less what the process had before."""


@dataclass
class Watch:
    """Watches the process's own anonymous memory, and notes it by step."""

    before: int = 0
    estimate: int = 0
    """What ``index`` says before it begins."""
    steps: dict[str, Step] = field(default_factory=dict)
    _name: str = "open"
    _since: float = 0.0
    _cpu_since: float = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A report of progress: what comes from here on belongs to that stage."""
        if stage != self._name:
            self._end()
            self._name = stage

    @contextmanager
    def running(self) -> Iterator[Watch]:
        """While the work is done."""
        self.before, self._since, self._cpu_since = anonymous_bytes(), time.perf_counter(), time.process_time()
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(TICK):
                self._look()

        thread = threading.Thread(target=look, name="watch", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            self._end()

    def _look(self) -> None:
        step = self.steps.setdefault(self._name, Step(self._name))
        step.peak_bytes = max(step.peak_bytes, anonymous_bytes() - self.before)

    def _end(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self._look()
        self.steps[self._name].seconds += now - self._since
        self.steps[self._name].cpu_seconds += cpu - self._cpu_since
        self._since, self._cpu_since = now, cpu


def anonymous_bytes() -> int:
    """What this process has in memory that lies in no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("this system does not say how much anonymous memory a process has")


def made_images(count: int, classes: int, side: int) -> Dataset:
    """A dataset of images that are made when they are read: those of a class have colours in common."""
    own = np.random.default_rng(0).normal(0, SHARPNESS, (classes, GRID, GRID, 3))
    labels = np.random.default_rng(1).integers(0, classes, count)
    labels[:classes] = np.arange(min(classes, count))
    scale = -(-side // GRID)
    names = tuple(f"class-{label:04d}" for label in range(classes))

    def pixels(position: int) -> NDArray[np.uint8]:
        cells = own[labels[position]] + np.random.default_rng(position + 2).normal(0, 1, (GRID, GRID, 3))
        image = np.clip(127 + 40 * cells, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1)[:side, :side])

    def read(position: int, geometry: Geometry) -> NDArray[np.uint8]:
        image = pixels(position)
        return image if geometry.keeps(side, side) else fit(Image.fromarray(image), geometry)

    def content(position: int) -> Content:
        return Content((pixels(position).data,), lambda geometry: read(position, geometry))

    base = ArrayDataset("made", "train", names, labels, np.empty((count, 0, 0, 3), np.uint8), ())
    return DerivedDataset.of(
        base,
        read=read,
        content=content,
        source=lambda position: f"{names[labels[position]]}/{position:08d}.png",
        content_hash=lambda: hashlib.sha256(labels.tobytes()).hexdigest(),
    )


def write_network(path: Path, dataset: Dataset, dim: int, side: int) -> None:
    """Write an ONNX classifier whose last layer but one has ``dim`` numbers; its head is made of some images."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, classes = np.random.default_rng(0), len(dataset.classes)
    cells = 3 * GRID**2
    first = random.normal(0, cells**-0.5, (cells, dim)).astype(np.float32)
    pool = side // GRID
    some = np.arange(min(len(dataset.labels), 20 * classes))
    geometry = Geometry(height=side, width=side)
    seen = np.stack([dataset.read(int(position), geometry)[::pool, ::pool][:GRID, :GRID] for position in some])
    inputs = seen.transpose(0, 3, 1, 2).reshape(len(some), -1).astype(np.float32) / 255
    found = np.maximum(inputs @ first, 0)
    means = np.stack([found[dataset.labels[some] == label].mean(axis=0) for label in range(classes)])
    # As if features lay around their class's mean, in all directions alike.
    sharp = 1 / np.square(found - means[dataset.labels[some]]).mean()
    head, bias = (sharp * means).T.astype(np.float32), (-sharp / 2 * np.square(means).sum(axis=1)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[pool] * 2, strides=[pool] * 2),
        helper.make_node("Flatten", ["cells"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "first"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["features"]),
        helper.make_node("Gemm", ["features", "head", "bias"], ["logits"]),
    ]
    weights = {"first": first, "head": head, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": str(dict(enumerate(dataset.classes)))})
    onnx.save(model, path)


def measured(root: Path, dataset: Dataset, dim: int, side: int, options: IndexOptions, *, linear: bool) -> Watch:
    """Make an encoder of few images, and index all with it."""
    first = made_images(FIRST * max(1, len(dataset.classes) // 100), len(dataset.classes), side)
    write_network(root / "network.onnx", dataset, dim, side)
    how = {"geometry": {"height": side, "width": side}, "arithmetic": {}, "is_certain": True}
    (root / "how.json").write_text(json.dumps(how))
    source = FromNetwork(
        str(root / "network.onnx"), preprocess=root / "how.json", head="linear" if linear else "network"
    )
    encoder = FromBundle(root / "first", index(first, root / "first", source, IndexOptions(trained="no")))
    with Watch().running() as watch:
        generation = index(dataset, root / "bundles", encoder, options, watch)
    manifest = read_manifest(root / "bundles", generation)
    watch.estimate = index_memory(len(dataset.labels), dim, manifest.store.factory, len(dataset.classes), linear=linear)
    said = manifest.approximation_error
    click.echo(
        f"store {manifest.store.factory}, {manifest.store.count:,} entries; theta {manifest.theta:g}, lam "
        f"{manifest.lam:g}, k {manifest.k}, on {manifest.holdout.images if manifest.holdout else 0:,} images"
        + ("" if said is None else f"; {said.changed_top1_percent:.2f} % of answers change"),
        err=True,
    )
    return watch


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--entries", type=click.IntRange(1000), default=50_000, show_default=True, help="Images that are cached.")
@click.option("--dim", type=click.IntRange(8), default=512, show_default=True, help="Numbers in a key.")
@click.option("--classes", type=click.IntRange(2), default=100, show_default=True, help="Of the images.")
@click.option("--side", type=click.IntRange(8), default=16, show_default=True, help="Pixels of an image's side.")
@click.option("--store", default="auto", show_default=True, help="As for index.")
@click.option("--linear", is_flag=True, help="Fit a linear head.")
@click.option("--no-thumbnails", is_flag=True, help="As for index.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where files lie for a while.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    entries: int,
    dim: int,
    classes: int,
    side: int,
    store: str,
    linear: bool,
    no_thumbnails: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Index images that are made on the fly, and say what each step takes."""
    dataset = made_images(entries, classes, side)
    options = IndexOptions(store=store, thumbnails=not no_thumbnails, trained="no")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        watch = measured(Path(made), dataset, dim, side, options, linear=linear)
    steps = list(watch.steps.values())
    peak = max(step.peak_bytes for step in steps)
    if as_json:
        print_json(
            entries=entries,
            dim=dim,
            before=watch.before,
            estimate=watch.estimate,
            peak_bytes=peak,
            steps=[asdict(step) for step in steps],
        )
        return
    click.echo(f"{'step':>14}  seconds  of processors   peak, MB")
    for step in steps:
        click.echo(f"{step.name:>14}  {step.seconds:7.1f}  {step.cpu_seconds:13.1f}  {step.peak_bytes / 1e6:9,.0f}")
    seconds, cpu = (sum(of) for of in zip(*((step.seconds, step.cpu_seconds) for step in steps), strict=True))
    click.echo(
        f"{'all':>14}  {seconds:7.1f}  {cpu:13.1f}  {peak / 1e6:9,.0f}   "
        f"({entries:,} x {dim}; {watch.before / 1e6:,.0f} MB before; said to need {watch.estimate / 1e6:,.0f})"
    )


if __name__ == "__main__":
    main()
