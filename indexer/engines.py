"""Which engines of reduced precision may answer with a bundle: those that keep float32's answers on labelled images.

Single keys may move, answers may not (docs/decisions/024). The cache keeps float32's keys: only what is asked is
encoded in the reduced precision, as a server does.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.new_entries import NewEntries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.engines import INT8, INT8_DATA, REDUCED, is_small, open_engine, why_no_openvino
from secondlook.model.bundles.files import ENCODER
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.errors import EngineError
from secondlook.model.images import Geometry
from secondlook.model.manifest import Manifest, ProvenEngine
from secondlook.model.networks.engines import Encoding, Engine, EngineName
from secondlook.model.scoring import error_percent, nll
from secondlook.model.stores.store import Store

logger = logging.getLogger(__name__)

FEWEST, MOST = 100, 1000
"""Images that prove anything, and that are asked."""
CALIBRATED = 200
"""Images that say how large activations are."""
MOST_BYTES = 256 << 20
"""Of images in memory, where these are not the fewest."""
BATCH = 16

SURE = 2.0
"""Standard errors: answers that became wrong, less those that became right, are chance up to so many."""
NLL_TIMES, NLL_MORE = 1.02, 0.005
"""By how much the likelihood may be worse: 2 %, and so many nats where it is next to nothing."""
RECOGNISED_PERCENT = 99.0
"""Of pictures, so many must still be seen to be the same as their own entry: its label, often corrected, decides."""
ALL_ENTRIES = 2000
"""Nearest entries that stand for all of them, where all vote."""


@dataclass(frozen=True)
class Labelled:
    """Labelled images that an engine is held to float32 on."""

    images: NDArray[np.uint8]
    """(n,H,W,3)"""
    labels: Ints
    """(n,)"""
    calibration: NDArray[np.uint8]
    """(m,H,W,3) others, where there are enough."""
    pictures: Ints | None = None
    """(N,) what each entry shows; None where none of these images is cached."""
    own: Ints | None = None
    """(n,) what each of these shows."""


@dataclass(frozen=True)
class Told:
    """What an engine says of n images, and what is answered with it."""

    encoding: Encoding
    mixed: Floats
    """(n,C)"""


def with_engines(
    manifest: Manifest,
    folder: Path,
    entries: NewEntries,
    store: Store,
    holdout: Dataset | None,
    progress: Progress = silent,
) -> Manifest:
    """A draft's manifest with the engines of reduced precision that were tried; an 8-bit encoder is left in its folder.

    They are held to float32 on the ``holdout``, or on cached images, each asked of all others. The manifest is as it
    was where OpenVINO is not installed, the encoder is small, or there are too few images.
    """
    if len(entries.values) < FEWEST:
        return manifest
    if why_no_openvino() is not None or is_small(folder):
        return manifest
    labelled = _labelled(manifest, entries, holdout)
    if labelled is None:
        return manifest
    served = ServedCache.of(store, len(manifest.classes), manifest.equal_classes)
    return manifest.model_copy(update={"engines": prove_engines(manifest, folder, served, labelled, progress)})


def prove_engines(
    manifest: Manifest, folder: Path, served: ServedCache, labelled: Labelled, progress: Progress = silent
) -> tuple[ProvenEngine, ...]:
    """Hold each engine of reduced precision to float32 on labelled images, as they would be answered.

    An 8-bit encoder is written into the folder, and taken away where it is not allowed.
    """
    reduced = [name for name in REDUCED if _can_be_tried(name, folder, labelled.calibration)]
    if not reduced:
        return ()
    said: list[Encoding] = []
    for name in ("onnxruntime", *reduced):
        said.append(_encoded(open_engine(folder, name, 0, spare_core=False), labelled.images))
        progress("engines", len(said), 1 + len(reduced))
    own = None if labelled.own is None else np.tile(labelled.own, len(said))
    keys, k = np.concatenate([encoding.keys for encoding in said]), min(manifest.k or ALL_ENTRIES, served.count)
    found = nearest_entries(served, keys, k, labelled.pictures, own)
    votes = np.split(served.vote(found.similarities, found.values, manifest.theta), len(said))
    new = manifest.new_classes(served.classes)
    told = [
        Told(encoding, mix(softmax(encoding.logits, served.classes), vote, manifest.lam, new))
        for encoding, vote in zip(said, votes, strict=True)
    ]
    same = None if manifest.same_as is None else manifest.same_as.exact
    proven = tuple(
        held_to(name, told[0], one, labelled.labels, same) for name, one in zip(reduced, told[1:], strict=True)
    )
    if not any(one.allowed for one in proven if one.engine == "openvino-int8"):
        for file in (INT8, INT8_DATA):
            (folder / file).unlink(missing_ok=True)
    return proven


def held_to(name: EngineName, float32: Told, reduced: Told, labels: Ints, same: float | None) -> ProvenEngine:
    """What an engine says of labelled images (n,), beside float32; ``same`` is how near the same picture is."""
    right, was_right = reduced.mixed.argmax(axis=1) == labels, float32.mixed.argmax(axis=1) == labels
    lost, won = int((was_right & ~right).sum()), int((right & ~was_right).sum())
    cosines = (reduced.encoding.keys * float32.encoding.keys).sum(axis=1)
    recognised = None if same is None else 100 * float((cosines > same).mean())
    losses = nll(reduced.mixed, labels), nll(float32.mixed, labels)
    wrong = ""
    if not (np.isfinite(reduced.mixed).all() and np.isfinite(cosines).all()):
        raise EngineError(f"{name} gives no finite answers")
    if lost - won > SURE * math.sqrt(lost + won):
        wrong = f"{lost} answers of {len(labels):,} become wrong and {won} right"
    elif losses[0] > NLL_TIMES * losses[1] + NLL_MORE:
        wrong = f"negative log-likelihood {losses[1]:.4f} becomes {losses[0]:.4f}"
    elif recognised is not None and recognised < RECOGNISED_PERCENT:
        wrong = f"only {recognised:.1f} % of pictures are seen to be the same as their own entry"
    return ProvenEngine(
        engine=name,
        allowed=not wrong,
        why=wrong or f"{lost} answers of {len(labels):,} become wrong and {won} right: no more than by chance",
        images=len(labels),
        error_percent=error_percent(reduced.mixed, labels),
        float32_error_percent=error_percent(float32.mixed, labels),
        nll=losses[0],
        float32_nll=losses[1],
        same_top1_percent=100 * float((reduced.mixed.argmax(axis=1) == float32.mixed.argmax(axis=1)).mean()),
        cosine_mean=float(cosines.mean()),
        cosine_least=float(cosines.min()),
        recognised_percent=recognised,
    )


def _can_be_tried(name: EngineName, folder: Path, calibration: NDArray[np.uint8]) -> bool:
    """Whether an engine runs here; the 8-bit encoder is made for it."""
    from secondlook.model.networks.openvino_engine import has_bfloat16

    if name == "openvino-bf16":
        return has_bfloat16()
    if find_spec("nncf") is None:
        return False
    from secondlook.model.networks.quantized import quantize

    try:
        quantize(folder / ENCODER, folder / INT8, calibration)
    except EngineError as error:
        logger.warning("8 bits are left out: %s", error)
        return False
    return True


def _labelled(manifest: Manifest, entries: NewEntries, holdout: Dataset | None) -> Labelled | None:
    """What is asked: the holdout's images, or cached ones, those of the dataset's tenth first; None = too few."""
    geometry, random = manifest.preprocess.geometry, np.random.default_rng(0)
    height, width = geometry.size
    most = min(MOST, max(FEWEST, MOST_BYTES // (3 * height * width)))
    embedded, pictures = entries.embedded, entries.first[entries.looks_rows]
    originals = np.flatnonzero(~embedded.mirrored)
    drawn = random.permutation(originals[np.unique(pictures[originals], return_index=True)[1]])
    in_tenth = np.isin(embedded.positions[drawn], entries.dataset.holdout())
    drawn = drawn[np.argsort(~in_tenth, kind="stable")]
    if holdout is not None and len(holdout.labels) >= FEWEST:
        at, images = _read(holdout, random.permutation(len(holdout.labels))[:most], geometry)
        if len(at) >= FEWEST:
            index = {name: value for value, name in enumerate(manifest.classes)}
            labels = np.array([index[holdout.classes[label]] for label in holdout.labels[at].tolist()], np.int64)
            _, calibration = _read(entries.dataset, embedded.positions[drawn[:CALIBRATED]], geometry)
            return Labelled(images, labels, calibration)
    if len(drawn) < FEWEST:
        return None
    at, images = _read(entries.dataset, embedded.positions[drawn[:most]], geometry)
    if len(at) < FEWEST:
        return None
    row_of = dict(zip(embedded.positions[drawn].tolist(), drawn.tolist(), strict=True))
    rows = np.array([row_of[position] for position in at.tolist()], np.int64)
    others = np.concatenate((drawn[most:], drawn[:most]))[:CALIBRATED]
    _, calibration = _read(entries.dataset, embedded.positions[others], geometry)
    return Labelled(images, entries.values[rows], calibration, pictures, pictures[rows])


def _read(dataset: Dataset, positions: Ints, geometry: Geometry) -> tuple[Ints, NDArray[np.uint8]]:
    """The images (n,H,W,3) at some positions of a dataset that can be read, and their positions (n,)."""
    found = list(batches(dataset, positions, geometry, BATCH))
    if not found:
        return np.empty(0, np.int64), np.empty((0, *geometry.size, 3), np.uint8)
    return np.concatenate([at for at, _ in found]), np.concatenate([images for _, images in found])


def _encoded(engine: Engine, images: NDArray[np.uint8]) -> Encoding:
    parts = [engine.encode(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return Encoding(np.concatenate([part.logits for part in parts]), np.concatenate([part.keys for part in parts]))
