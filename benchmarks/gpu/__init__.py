"""The project on a GPU, measured by one script: ``python -m benchmarks.gpu`` (``make gpu``).

It runs on a bare machine: Python, PyTorch and numpy are enough, and nothing of ours need be installed. What more there
is (safetensors, h5py, torchvision, FAISS, FastAPI) lets more be measured; what is missing is said. Each part runs in a
process of its own for so long at most, so that one that fails or hangs costs the others nothing.

``plan`` is what is asked for and what a part may say, ``running`` runs parts, ``subjects`` are the encoders and images
that they measure; ``report`` prints what came of it.
"""
