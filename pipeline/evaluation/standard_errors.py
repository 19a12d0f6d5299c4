"""How much a cross-validated figure may owe to the rows that were tested: its standard error.

The test rows' errors are averaged over each fold, and the spread of these averages tells how far their mean may be
off: for equal folds, their standard deviation over the square root of their number. Without folds, each held-out row
counts as one. The fits share most of their training rows, so that no estimate of it is without bias.

See: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10; folds of different sizes are weighted
as in glmnet's cv.glmnet; Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import TESTED
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import is_linear
from pipeline.runs.records import Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """The m rows that a split tests, each as the fits of that split see it.

    split, fold: (m,), the split that tests each row, and which of K equal parts counts it. X (m, k), y (m,), float64.
    folds: how many splits test rows.
    """

    rows: NDArray[np.intp]
    split: NDArray[np.intp]
    fold: NDArray[np.intp]
    X: Float64
    y: Float64
    folds: int

    @classmethod
    def of(cls, prepared: Prepared) -> Self:
        """Take the tested rows of the prepared data."""
        split, rows = np.nonzero(prepared.tested)
        y = prepared.y.astype(np.float64)[rows, 0]
        X = np.empty((len(rows), prepared.X.shape[1]))
        for one in np.unique(split):
            X[split == one] = prepared.standardized(int(one)).astype(np.float64)[rows[split == one]]
        folds = len(np.unique(split))
        fold = np.unique(split, return_inverse=True)[1] if folds > 1 else np.arange(len(rows))
        return cls(rows, split, fold, X, y, folds)

    def residuals(self, record: Record, prepared: Prepared) -> Float64:
        """Return y_pred - y (m,) of a run, each row predicted by the fit that did not train on it."""
        if not is_linear(record.tensors):
            return np.asarray(metrics.predictions(record, prepared)[self.split, self.rows, 0] - self.y)
        W, b = (record.tensors[name].astype(np.float64)[self.split] for name in ("W", "b"))
        return np.asarray((self.X * W[..., 0]).sum(axis=1) + b[:, 0] - self.y)

    def standard_error(self, errors: Float64) -> float:
        """Return the standard error of the mean of errors (m,); NaN if there is one fold or row only."""
        sizes = np.bincount(self.fold)
        means = np.bincount(self.fold, weights=errors) / sizes
        if len(sizes) < 2:
            return math.nan
        variance = float((sizes * (means - errors.mean()) ** 2).sum()) / len(errors)
        return math.sqrt(variance / (len(sizes) - 1))


@dataclass(frozen=True)
class Errors:
    """What the figures of a sweep rest on: tested rows, in how many folds; their standard errors.

    of: configuration -> metric -> standard error.
    """

    rows: int
    folds: int
    of: Mapping[str, Mapping[str, float]]


def compute(groups: Mapping[str, Sequence[Record]], prepared: Prepared) -> Errors:
    """Compute the standard errors of each configuration's figures, which are means over its seeds; nine digits.

    Each row's error is averaged over the seeds first: seeds are draws of the training, not of the rows. The target's
    variance, by which cv/r2 divides, counts as known. A configuration whose runs all diverged has none.

    Args:
        groups: configuration -> its runs.
        prepared: the data.
    """
    tested = Tested.of(prepared)
    spread = float(tested.y.var()) if len(tested.y) else 0.0
    found = {}
    for configuration, group in groups.items():
        residuals = [tested.residuals(record, prepared) for record in group if record.is_whole]
        if not residuals or not len(tested.y):
            continue
        off = np.abs(residuals)  # (seeds, m)
        square = tested.standard_error((off**2).mean(axis=0))
        values = square, tested.standard_error(off.mean(axis=0)), square / spread if spread > 0 else math.nan
        # in the order of TESTED
        found[configuration] = {key: float(f"{value:.9g}") for key, value in zip(TESTED, values, strict=True)}
    return Errors(len(tested.y), tested.folds, found)
