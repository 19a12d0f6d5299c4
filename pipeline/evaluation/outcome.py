"""What a run reached, computed from its weights and the prepared data in float64, and the metrics of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import in_float64, is_linear, linear
from pipeline.metrics import METRICS, TESTED, Gradient, Outcome, Rows, rounded, summarized
from pipeline.runs.records import CURVE, Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]


def metrics(record: Record, prepared: Prepared) -> dict[str, float]:
    """Compute a run's metrics, nine digits: only finite ones; none if the run diverged or fell behind.

    What fewer epochs reach is not ranked with what all of them do.
    """
    if not record.is_whole:
        return {}
    reached = of(record, prepared)
    found = rounded({metric.key: metric.value(reached) for metric in METRICS})
    return found | ({CURVE: reached.loss} if CURVE in found else {})  # in float32, which is exact as it is


def of(record: Record, prepared: Prepared) -> Outcome:
    """Compute what a run reached, from its weights."""
    y_pred, train = predictions(record, prepared), prepared.train[0]  # (S, n, 1), (n,)
    y = prepared.y.astype(np.float64)[train]  # (n', 1)
    X = prepared.standardized(0).astype(np.float64)[train]  # (n', k)
    trained = Rows(y_pred[0, train, 0], y[:, 0])
    return Outcome(
        tested=tested_rows(y_pred, prepared),
        trained=trained,
        loss=float(record.curve[record.last]),
        optimum=least_squares_mse(X, y),
        gradient=gradient(record, X, y, trained.error[:, None]),
    )


def tested_rows(y_pred: Float64, prepared: Prepared) -> Rows:
    """Take the rows that a split tests, each predicted by that split, from all predictions (S, n, 1)."""
    tested = prepared.tested.any(axis=0)
    held_out = out_of_sample(y_pred, prepared.tested)[tested]
    return Rows(held_out[:, 0], prepared.y.astype(np.float64)[tested, 0])


def final(champion: Sequence[Record], prepared: Prepared) -> dict[str, float]:
    """Measure the champion's runs on the final rows, with their fits on all training rows: means over the seeds.

    Returns:
        final/mse and so on, nine digits, as far as they are finite; none if there are no final rows.
    """
    if prepared.final is None or not champion:
        return {}
    rows, y = prepared.final, prepared.y.astype(np.float64)[prepared.final, 0]
    return means([Rows(predictions(record, prepared)[0, rows, 0], y) for record in champion], "final")


def means(seeds: Sequence[Rows], split: str) -> dict[str, float]:
    """Compute the metrics of tested rows, means over the seeds, nine digits, under the keys of a split."""
    found = {one.on(split): summarized(one.of_rows(rows) for rows in seeds if one.of_rows)[0] for one in TESTED}
    return rounded(found)


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


def gradient(record: Record, X: Float64, y: Float64, error: Float64) -> Gradient:
    """Return autograd's gradient, and the formula's, or central differences if the model is not linear.

    Args:
        record: with autograd's gradient on all training rows.
        X: those rows, (n, k), as the run saw them.
        y: their targets, (n, 1).
        error: y_pred - y, (n, 1).
    """
    if is_linear(record.tensors):
        return by_formula(record, X, y, error)
    variant, k, tensors = record.run.variant, X.shape[1], record.tensors
    forward, [values, *_] = in_float64(variant, tensors, k)
    own = {name: tensors[f"grad_{name}"][None] for name in tensors if f"grad_{name}" in tensors}
    _, [autograd] = in_float64(variant, own, k)

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
    return Gradient(autograd[chosen], differences, np.full(len(chosen), size if size > 0 else 1.0))


def by_formula(record: Record, X: Float64, y: Float64, error: Float64) -> Gradient:
    """Return a linear model's gradient, 2/n · Xᵀ(Xw + b − y), whose terms add up to 2/n · |X|ᵀ(|X||w| + |b| + |y|).

    See: Higham, Accuracy and Stability of Numerical Algorithms, 3.5: the rounding error is about 1e-7 of the size.
    """
    X1 = np.hstack([X, np.ones_like(y)])  # (n, k + 1)
    W = np.vstack([record.tensors["W"][0], record.tensors["b"][0][:, None]]).astype(np.float64)
    autograd = np.append(record.tensors["grad_W"], record.tensors["grad_b"]).astype(np.float64)
    formula = 2 / len(y) * (X1 * error).sum(axis=0)
    terms = product(np.abs(X1), np.abs(W)) + np.abs(y)
    size = 2 / len(y) * (np.abs(X1) * terms).sum(axis=0)
    return Gradient(autograd, formula, np.where(size > 0, size, 1))
