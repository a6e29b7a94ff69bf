"""Other servers with the same answers, each a program of its own: ``python -m benchmarks.peers.NAME``."""
