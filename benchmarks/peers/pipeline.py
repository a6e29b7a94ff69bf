"""What the peers serve: a bundle's files through ONNX Runtime, FAISS and numpy, as their documentation shows them.

Images become the same pixels as here, by the same code, and the arithmetic of the vote is the cache's own: so that only
how it is run and served differs. Engines, searches and threads are not chosen, as they are in ``secondlook serve``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from secondlook.model.bundles.files import ENCODER, KEYS, VALUES, read_manifest
from secondlook.model.cache import Floats, class_weights, mix, reweigh, softmax, vote
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode

TOP = 5
CAN_SERVE = "keys in a FAISS index of which the k nearest vote"


class Pipeline:
    """Decode, encode, search, vote; ``answers`` is called from one thread at a time.

    Raises:
        SystemExit: the bundle's keys are not in a FAISS index, or all of them vote.
    """

    def __init__(self, root: Path, threads: int = 0) -> None:
        """Of the active bundle, with so many threads for its encoder; 0 = as ONNX Runtime likes."""
        generation = (root / "CURRENT").read_text().strip()
        self.manifest = manifest = read_manifest(root, generation)
        if manifest.store.kind != "faiss" or manifest.k is None:
            raise SystemExit(f"the peers serve {CAN_SERVE}: this bundle has others")
        folder, options = root / generation, onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(folder / ENCODER, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs() if output.name in ("logits", "keys")]
        self._index, self._values = faiss.read_index(str(folder / KEYS)), np.load(folder / VALUES)
        settings, search = faiss.ParameterSpace(), manifest.store.search
        if search.lists is not None:
            settings.set_index_parameter(self._index, "nprobe", search.lists)
        if search.candidates is not None:
            settings.set_index_parameter(self._index, "efSearch", max(search.candidates, manifest.k))
        self._k, self.classes = min(manifest.k, len(self._values)), manifest.classes
        counts = np.bincount(self._values, minlength=len(self.classes))
        self._class_weights = class_weights(counts, manifest.equal_classes)

    def decode(self, body: bytes) -> NDArray[np.uint8]:
        """An image file's pixels (H,W,3)."""
        return decode(body, self.manifest.preprocess.geometry, Limits(DEFAULT_PIXELS))

    def answers(self, images: NDArray[np.uint8]) -> Floats:
        """Probabilities (B,C) of images (B,H,W,3)."""
        given = dict(zip(self._outputs, self._session.run(self._outputs, {"images": images}), strict=True))
        found: Any = self._index.search(given["keys"], self._k)
        similarities, ids = found
        values = np.where(ids < 0, -1, self._values[np.maximum(ids, 0)])
        cache = reweigh(vote(similarities, values, self.manifest.theta, len(self.classes)), self._class_weights)
        network = softmax(given.get("logits", np.empty((len(images), 0), np.float32)), len(self.classes))
        return mix(network, cache, self.manifest.lam, self.manifest.new_classes(len(self.classes)))

    def told(self, probabilities: Floats) -> dict[str, Any]:
        """The best classes of an image, as the peers answer."""
        best = (-probabilities).argsort()[:TOP]
        top = [{"label": self.classes[i], "probability": float(probabilities[i])} for i in best]
        return {"predictions": [{**top[0], "top": top}]}
