import subprocess
import sys

CODE = """
import sys, service.serve
print([name for name in ("torch", "safetensors", "onnx") if name in sys.modules])
"""


def test_serving_imports_no_torch() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
