"""The prepared data, and how each split's runs see the features: less the mean, over its training rows' deviation."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Mask = NDArray[np.bool_]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """The arrays that prepare wrote: n rows, k features, S splits.

    X (n, k), y (n, 1), float32, in the table's units; train (S, n), bool; mean (S, k), scale (S, k), float32.
    final (n,), bool: the rows on which only champions are measured; None if there are none.
    """

    X: Float32
    y: Float32
    train: Mask
    mean: Float32
    scale: Float32
    final: Mask | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the arrays that prepare wrote."""
        return cls(**load_file(path))

    @property
    def tested(self) -> Mask:
        """The rows (S, n), bool, that each split tests: those that it does not train on, except final rows."""
        return ~self.train if self.final is None else ~self.train & ~self.final

    @property
    def train_rows(self) -> list[int]:
        """The number of training rows of each split."""
        return [int(count) for count in self.train.sum(axis=1)]

    def table(self, split: int) -> int:
        """Return the first split whose runs see the same X: split 0 unless the data are standardized."""
        same = (self.mean == self.mean[split]).all(axis=1) & (self.scale == self.scale[split]).all(axis=1)
        return int(np.flatnonzero(same)[0])

    def standardized(self, split: int) -> Float32:
        """Return X (n, k) as a split's runs see it; a number that is too large for float32 becomes infinite or NaN."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((self.X - self.mean[split]) / self.scale[split])

    def with_pairs(self, standardize: bool) -> Self:
        """Add a split for each pair of at least three folds; it trains on the rows of neither.

        Args:
            standardize: whether features are scaled by the mean and standard deviation of a split's training rows.
        """
        left = np.stack([self.train[one] & self.train[other] for one, other in pairs(len(self.train))])
        mean, scale = standardization(self.X, left) if standardize else identity(len(left), self.X.shape[1])
        train, mean, scale = (
            np.concatenate(parts) for parts in ((self.train, left), (self.mean, mean), (self.scale, scale))
        )
        return replace(self, train=train, mean=mean, scale=scale)


def pairs(splits: int) -> list[tuple[int, int]]:
    """List the pairs of folds, by the splits that leave them out."""
    return list(combinations(range(1, splits), 2))


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
