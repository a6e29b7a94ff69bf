"""Offline: datasets, embedding, fitting, bundles, training."""
