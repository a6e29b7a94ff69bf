"""What the classifier is. Importing it needs no torch; it imports nothing of the other rooms.

Its parts, each importing only those above it::

    errors, memory, malloc, labels, cache, scoring, intervals
                the errors that users read, whether work fits into memory, what is kept of freed memory, the names of
                classes, the cache's formulas, how good probabilities are, how sure a measured number is
    images      bytes of a file -> uint8 pixels of the encoder's size
    networks    a network and a key recipe -> an encoder, exported as one ONNX graph; the engines that run it.
                ``sources`` opens a network by its name, ``network`` is what any of them can do, ``preprocess`` and
                ``proof`` what it takes, ``classes`` whose classes mean what, ``encoder_graph`` exports it with its key
    manifest    what a bundle says of itself: the fields of its manifest.json
    stores      keys and how the nearest are found: exact, FAISS, PyTorch, Milvus; added keys beside any of them
    journal     what people taught a root, in one SQLite file
    bundles     one folder with everything that a server needs; a root has many, and names the active one
    added       a journal's changes as an overlay of a generation
    answering   pixels -> encoder -> nearest entries -> vote -> mixture; and how far to trust it
"""

import os

# Read once, when FAISS is loaded: its idle threads sleep instead of spinning, which took half of the processor time of
# a server that answers one request after another (docs/decisions/006).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read once, when ONNX Runtime is loaded: its official builds otherwise send events to their maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
