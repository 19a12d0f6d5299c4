"""How each split's runs see the features: less the mean, over the standard deviation of its own training rows."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Float32 = NDArray[np.float32]


def standardization(X: Float32, train: Mask) -> tuple[Float32, Float32]:
    """Compute the mean and standard deviation of each split's training rows; a constant feature's scale is 1.

    Args:
        X: (n, k), float32.
        train: (S, n), bool.

    Returns:
        mean (S, k), scale (S, k), float32, in the features' units.
    """
    rows = [X[mask].astype(np.float64) for mask in train]
    mean = np.stack([part.mean(axis=0) for part in rows]).astype(np.float32)
    scale = np.stack([part.std(axis=0) for part in rows]).astype(np.float32)
    return mean, np.where(scale > 0, scale, np.float32(1))


def identity(splits: int, k: int) -> tuple[Float32, Float32]:
    """Return the mean (S, k) and scale (S, k), float32, that leave the features unchanged."""
    return np.zeros((splits, k), dtype=np.float32), np.ones((splits, k), dtype=np.float32)
