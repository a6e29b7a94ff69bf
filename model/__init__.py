"""What the classifier is: networks, encoder, cache maths, stores, bundles. Importing it needs no torch."""

import os

# Read once, when FAISS is loaded: its idle threads sleep instead of spinning, which took half of the processor time of
# a server that answers one request after another (docs/decisions/006).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read once, when ONNX Runtime is loaded: its official builds otherwise send events to their maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
