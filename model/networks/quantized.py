"""An encoder's graph in 8 bits, by NNCF. Needs nncf and openvino; used when a bundle is made, never to serve."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import EngineError
from secondlook.model.networks.openvino_engine import import_openvino

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def quantize(path: Path, to: Path, images: NDArray[np.uint8]) -> None:
    """Write an encoder's graph with its products in 8 bits, as OpenVINO has it: ``to``, and its weights beside it.

    Images (n,H,W,3) say how large activations are. What comes last on the way to keys and logits (a head, a projection,
    the division by a length) stays as it is: it costs little, and an error in it is one of the answer.

    NNCF runs in a process of its own: it sets up logging, draws on standard output, and imports PyTorch where that is.

    Raises:
        EngineError: it cannot be quantised.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "images.npy"
        np.save(given, images, allow_pickle=False)
        command = [sys.executable, "-P", "-m", __name__, str(path), str(to), str(given)]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode != 0 or not to.exists():
        why = "".join(ended.stderr.strip().splitlines()[-1:]) or f"exit status {ended.returncode}"
        raise EngineError(f"{path.name} cannot be quantised: {why}")


def _quantize(path: Path, to: Path, images: NDArray[np.uint8]) -> None:
    """The same, in this process."""
    openvino = import_openvino()
    import nncf

    model = openvino.Core().read_model(path)
    quantised = nncf.quantize(
        model,
        nncf.Dataset([images[i : i + 1] for i in range(len(images))]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=_last(model), validate=False),
    )
    openvino.save_model(quantised, to, compress_to_fp16=False)


def _last(model: Any) -> list[str]:
    """The names of the operations on the way to an output that no product comes after, and of those last products.

    A head on keys comes after their division by their length: so each output is followed on its own.
    """
    found: dict[str, None] = {}
    left = [result.input_value(0).get_node() for result in model.get_results()]
    while left:
        operation = left.pop()
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        if name in found or kind in ("Constant", "Parameter"):
            continue
        found[name] = None
        if kind not in PRODUCTS:
            left += [value.get_node() for value in operation.input_values()]
    return list(found)


if __name__ == "__main__":
    _quantize(Path(sys.argv[1]), Path(sys.argv[2]), np.load(sys.argv[3], allow_pickle=False))
