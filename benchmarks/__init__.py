"""What things cost: every figure of one run on one machine, as ratios; plots of them."""

# Sets what ONNX Runtime and FAISS read when they are loaded, which some files here do first.
import secondlook.model  # noqa: F401
