import subprocess
import sys

import pytest

CODE = """
import sys, secondlook.service.processes.serve
print([name for name in ("torch", "safetensors", "onnx") if name in sys.modules])
"""


def test_serving_imports_no_torch() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


WATCHED = """
import importlib, importlib.abc, os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("loaded with", os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(
    "module", ["secondlook.model.networks.engines", "benchmarks.engines", "secondlook.service.processes.serve"]
)
def test_onnx_runtime_is_told_to_send_nothing_before_it_is_loaded(module: str) -> None:
    result = subprocess.run([sys.executable, "-c", WATCHED, module], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "loaded with 1"
