"""The covariance that RMDS goes by, written out."""

import numpy as np


def inverse_covariance(apart: np.ndarray) -> np.ndarray:
    """Of vectors (n,D) about 0, with as much of the mean variance added as Ledoit and Wolf shrink it, .001 at least."""
    apart = apart.astype(np.float64)
    count, dim = apart.shape
    covariance = apart.T @ apart / count
    mean = np.trace(covariance) / dim
    apart_from_mean = np.square(covariance - mean * np.eye(dim)).sum()
    error = sum(np.square(np.outer(one, one) - covariance).sum() for one in apart) / count**2
    shrunk = min(1.0, error / apart_from_mean)
    added = np.clip(shrunk / max(1 - shrunk, 1e-9), 1e-3, 1e3)
    return np.asarray(np.linalg.inv(covariance + np.eye(dim) * added * mean))
