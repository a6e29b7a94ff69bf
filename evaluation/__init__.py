"""How good it is: errors, calibration, robustness, doubt."""

# Sets what ONNX Runtime and FAISS read when they are loaded, which some files here do first.
import secondlook.model  # noqa: F401
