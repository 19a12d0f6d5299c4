"""A run's metrics, computed from its weights and the prepared data in float64."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import in_float64, is_linear, linear
from pipeline.runs.records import CURVE, FINAL, Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]


def compute(record: Record, prepared: Prepared) -> dict[str, float]:
    """Compute a run's metrics from its weights, in float64: only finite ones; none if it diverged or fell behind.

    What fewer epochs reach is not ranked with what all of them do.
    """
    if not record.is_whole:
        return {}
    y, train = prepared.y.astype(np.float64), prepared.train  # (n, 1), (S, n)
    y_pred = predictions(record, prepared)  # (S, n, 1)
    X = prepared.standardized(0).astype(np.float64)[train[0]]  # (n', k)
    error = (y_pred[0] - y)[train[0]]
    mse = float((error**2).mean())
    # Float64 has 16 digits, of which a difference loses those where its terms agree: round three digits above the last.
    excess = round_to(mse - least_squares_mse(X, y[train[0]]), 1e-13 * max(mse, float(y[train[0]].var())))
    loss = float(record.curve[record.last])
    values = {
        **of_tested(y_pred, prepared),
        CURVE: loss,
        "excess_mse": excess,
        "grad_error": round_to(gradient_error(record, X, y[train[0]], error), 1e-13),  # relative to its terms' size
    }
    return rounded(values) | ({CURVE: loss} if math.isfinite(loss) else {})  # in float32, which is exact as it is


def of_tested(y_pred: Float64, prepared: Prepared) -> dict[str, float]:
    """Compute cv/mse, cv/mae and cv/r2 from every split's predictions y_pred (S, n, 1)."""
    y = prepared.y.astype(np.float64)
    held_out = out_of_sample(y_pred, prepared.tested)  # (n, 1), NaN for a row that no split tests
    tested = prepared.tested.any(axis=0)
    residual = (held_out - y)[tested]
    spread = ((y - y[tested].mean())[tested] ** 2).mean()
    return {
        "cv/mse": float((residual**2).mean()),
        "cv/mae": float(np.abs(residual).mean()),
        "cv/r2": float(1 - (residual**2).mean() / spread) if spread > 0 else math.nan,
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Round figures to nine digits, as people read them, and leave out those that are not finite."""
    return {key: float(f"{value:.9g}") for key, value in values.items() if math.isfinite(value)}


def final(champion: Sequence[Record], prepared: Prepared) -> dict[str, float]:
    """Measure the champion's runs on the final rows, with their fits on all training rows: means over the seeds.

    Returns:
        final/mse, final/mae and final/r2, nine digits, as far as they are finite; none if there are no final rows.
    """
    if prepared.final is None or not champion:
        return {}
    rows, y = prepared.final, prepared.y.astype(np.float64)[prepared.final]
    residuals = [predictions(record, prepared)[0][rows] - y for record in champion]
    square = float(np.mean([(one**2).mean() for one in residuals]))
    spread = float(y.var())
    r2 = 1 - square / spread if spread > 0 else math.nan
    return rounded(dict(zip(FINAL, (square, float(np.mean(np.abs(residuals))), r2), strict=True)))


def round_to(value: float, unit: float) -> float:
    """Round to the power of ten at or above `unit`, so that smaller errors rarely change a digit."""
    return round(value, -math.ceil(math.log10(unit))) if unit > 0 and math.isfinite(value) else value


def product(X: Float64, W: Float64) -> Float64:
    """Multiply X (n, k) and W (k, 1) -> (n, 1), summed in numpy's own order.

    BLAS would choose an order by processor.
    """
    return np.asarray((X * W[:, 0]).sum(axis=1, keepdims=True))


def predictions(record: Record, prepared: Prepared) -> Float64:
    """Predict every row with every split's parameters, in float64: (S, n, 1)."""
    if is_linear(record.tensors):
        fits = enumerate(zip(record.tensors["W"], record.tensors["b"], strict=True))
        return np.stack([linear(prepared.standardized(split), W, b) for split, (W, b) in fits])
    forward, values = in_float64(record.run.variant, record.tensors, prepared.X.shape[1])
    return np.stack([forward(one, prepared.standardized(split)) for split, one in enumerate(values)])


def out_of_sample(y_pred: Float64, tested: NDArray[np.bool_]) -> Float64:
    """Take each row's prediction from the split that tests it, of tested (S, n): (n, 1), NaN if none does."""
    chosen = np.full(y_pred.shape[1:], np.nan)
    for split, rows in enumerate(tested):
        chosen[rows] = y_pred[split][rows]
    return chosen


def least_squares_mse(X: Float64, y: Float64) -> float:
    """Return the smallest mean squared error that any W and b can reach on X (n, k), y (n, 1).

    See: the normal equations; solved by numpy.linalg.lstsq on centred columns.
    """
    X, y = X - X.mean(axis=0), y - y.mean()
    W = np.asarray(np.linalg.lstsq(X, y)[0], dtype=np.float64)
    return float(((product(X, W) - y) ** 2).mean())


def gradient_error(record: Record, X: Float64, y: Float64, error: Float64) -> float:
    """Compare autograd's gradient with the formula, or with central differences if the model is not linear.

    Args:
        record: with autograd's gradient on all training rows.
        X: those rows, (n, k), as the run saw them.
        y: their targets, (n, 1).
        error: y_pred - y, (n, 1).
    """
    if is_linear(record.tensors):
        return formula_error(record, X, y, error)
    variant, k, tensors = record.run.variant, X.shape[1], record.tensors
    forward, [values, *_] = in_float64(variant, tensors, k)
    gradient = {name: tensors[f"grad_{name}"][None] for name in tensors if f"grad_{name}" in tensors}
    _, [autograd] = in_float64(variant, gradient, k)

    def mse(values: Float64) -> float:
        return float(((forward(values, X) - y) ** 2).mean())

    # At most 64 parameters, evenly spread: each takes two predictions of all rows.
    chosen = np.unique(np.linspace(0, len(autograd) - 1, 64).astype(int))
    differences = np.empty(len(chosen))
    for i, place in enumerate(chosen):
        step = np.zeros_like(values)
        step[place] = 1e-6 * max(1.0, abs(values[place]))  # about the cube root of float64's rounding
        differences[i] = (mse(values + step) - mse(values - step)) / (2 * step[place])
    size = float(np.abs(differences).max())
    return float(np.abs(autograd[chosen] - differences).max() / (size if size > 0 else 1))


def formula_error(record: Record, X: Float64, y: Float64, error: Float64) -> float:
    """Compare autograd's gradient with 2/n · Xᵀ(Xw + b − y), relative to the size of its terms.

    See: Higham, Accuracy and Stability of Numerical Algorithms, 3.5: the rounding error is about 1e-7 · 2/n · |X|ᵀ|…|.
    """
    X1 = np.hstack([X, np.ones_like(y)])  # (n, k + 1)
    W = np.vstack([record.tensors["W"][0], record.tensors["b"][0][:, None]]).astype(np.float64)
    autograd = np.vstack([record.tensors["grad_W"], record.tensors["grad_b"][:, None]]).astype(np.float64)
    formula = 2 / len(y) * (X1 * error).sum(axis=0)[:, None]
    terms = product(np.abs(X1), np.abs(W)) + np.abs(y)
    size = 2 / len(y) * (np.abs(X1) * terms).sum(axis=0)[:, None]
    return float((np.abs(autograd - formula) / np.where(size > 0, size, 1)).max())
