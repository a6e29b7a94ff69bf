"""How good it is: errors, calibration, benchmarks."""

import secondlook.model  # noqa: F401  Sets what ONNX Runtime and FAISS read when they are loaded, which some files here do first.
