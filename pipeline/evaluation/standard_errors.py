"""The standard error of a cross-validated metric: how far it may be off, as other rows might have been tested.

The tested rows' errors are averaged over each fold. The standard error follows from the spread of these averages: for
equal folds, it is their standard deviation over the square root of their number. Without folds, each held-out row
counts as a fold. The fits share most of their training rows, so no estimate of it is without bias.

See: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10; folds of different sizes are weighted
as in glmnet's cv.glmnet; Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import outcome
from pipeline.evaluation.predictions import is_linear
from pipeline.metrics import TESTED, Rows
from pipeline.runs.records import Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """The m rows that a split tests, as the fits of that split see them.

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
        splits, fold = np.unique(split, return_inverse=True)
        for one in splits.tolist():
            X[split == one] = prepared.standardized(one).astype(np.float64)[rows[split == one]]
        return cls(rows, split, fold if len(splits) > 1 else np.arange(len(rows)), X, y, len(splits))

    def predictions(self, record: Record, prepared: Prepared) -> Float64:
        """Return y_pred (m,) of a run, each row predicted by the fit that did not train on it."""
        if not is_linear(record.tensors):
            return np.asarray(outcome.predictions(record, prepared)[self.split, self.rows, 0])
        W, b = (record.tensors[name].astype(np.float64)[self.split] for name in ("W", "b"))
        return np.asarray((self.X * W[..., 0]).sum(axis=1) + b[:, 0])

    def standard_error(self, terms: Float64) -> float:
        """Return the standard error of the mean of terms (m,); NaN if there is only one fold or row."""
        sizes = np.bincount(self.fold)
        means = np.bincount(self.fold, weights=terms) / sizes
        if len(sizes) < 2:
            return math.nan
        variance = float((sizes * (means - terms.mean()) ** 2).sum()) / len(terms)
        return math.sqrt(variance / (len(sizes) - 1))


@dataclass(frozen=True)
class Errors:
    """The number of tested rows and of folds, on which a sweep's metrics rest, and the metrics' standard errors.

    of: configuration -> metric -> standard error.
    """

    rows: int
    folds: int
    of: Mapping[str, Mapping[str, float]]


def compute(groups: Mapping[str, Sequence[Record]], prepared: Prepared) -> Errors:
    """Compute the standard errors of each configuration's metrics, which are means over its seeds; nine digits.

    Each row's terms are averaged over the seeds first: seeds are draws of the training, not of the rows. The target's
    variance, by which cv/r2 divides, counts as known. A configuration whose runs all diverged has no standard errors.

    Args:
        groups: configuration -> its runs.
        prepared: the data.
    """
    tested, found = Tested.of(prepared), {}
    for configuration, group in groups.items():
        y_pred = [tested.predictions(record, prepared) for record in group if record.is_whole]
        if not y_pred or not len(tested.y):
            continue
        rows = Rows(np.stack(y_pred), tested.y)  # (seeds, m)
        terms = {metric.key: metric.terms(rows).mean(axis=0) for metric in TESTED if metric.terms}
        found[configuration] = {key: float(f"{tested.standard_error(own):.9g}") for key, own in terms.items()}
    return Errors(len(tested.y), tested.folds, found)
