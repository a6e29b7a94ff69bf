"""What a network with large weights takes in memory, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from secondlook.model.networks import onnx_weights
from secondlook.model.networks.engines import LIGHT
from tests.engines_for_tests import need_openvino
from tests.networks_for_tests import Builder

WIDE = 4096
WEIGHTS = 4 * (3 * 8 * 8 * 64 + 64 * 9 * 256 + 256 * WIDE * 8)
"""Bytes: 35 MB."""

CODE = """
import sys
from pathlib import Path
import numpy as np
from secondlook.model.networks.engines import OnnxEngine
from secondlook.model.networks.openvino_engine import OpenVinoEngine, import_openvino

def anonymous():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous"))

is_openvino = sys.argv[2] == "openvino"
if is_openvino:
    import_openvino()
before = anonymous()
engine = OpenVinoEngine(Path(sys.argv[1]), 2) if is_openvino else OnnxEngine(Path(sys.argv[1]), 2, spare_core=True)
engine.encode(np.zeros((2, 64, 64, 3), np.uint8))
print(anonymous() - before)
"""


def heavy(path: Path, most_bytes: int = LIGHT) -> None:
    """An encoder of convolutions and matrices."""
    build = Builder()
    build.nodes.append(helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT))
    pixels = build.node("Transpose", "cast", perm=[0, 3, 1, 2])
    seen = build.node("Relu", build.conv(pixels, 3, 64, stride=8, kernel=8))
    seen = build.node("Relu", build.conv(seen, 64, 256))
    tensor = build.pooled(seen)
    wide = [build.node("MatMul", tensor, build.random(256, WIDE)) for _ in range(8)]
    build.node("LpNormalization", build.node("Sum", *wide), to="keys", axis=1, p=2)
    model = build.model(("batch", 64, 64, 3), image_type=TensorProto.UINT8, name="images")
    model.graph.output.append(helper.make_tensor_value_info("keys", TensorProto.FLOAT, ["batch", WIDE]))
    onnx.save(model, str(path))
    onnx_weights.save(onnx_weights.load(path), path, most_bytes)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what memory is a process's own")
@pytest.mark.parametrize(
    ("runtime", "most_bytes"),
    # Such as a bundle has it, and in one piece as an older one does.
    [("onnxruntime", LIGHT), ("openvino", LIGHT), ("onnxruntime", 1 << 30)],
)
def test_weights_lie_in_memory_once(runtime: str, most_bytes: int, tmp_path: Path) -> None:
    if runtime == "openvino":
        need_openvino()
    heavy(tmp_path / "encoder.onnx", most_bytes)
    command = [sys.executable, "-c", CODE, str(tmp_path / "encoder.onnx"), runtime]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert np.isclose(sum(path.stat().st_size for path in tmp_path.iterdir()), WEIGHTS, rtol=0.02)
    assert taken < 1.5 * WEIGHTS
