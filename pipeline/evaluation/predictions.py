"""A run's predictions for rows of a table, in the table's own units: the one function that makes them.

It needs numpy alone for a linear model, so that a served model can carry this file and load without torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.training.parameters import Forward

Array = NDArray[np.float32]
Float64 = NDArray[np.float64]
ROWS = 2**16  # predicted at once by a model that is not linear


def predict(variant: str, tensors: Mapping[str, Array], X: NDArray[np.floating]) -> Array:
    """Predict with a run's fit on all training rows, as the run saw X: in float32, less the mean, over the scale.

    Args:
        variant: the run's.
        tensors: the run's record: W and b if it is linear, other names otherwise; mean and scale.
        X: (m, k), the features in the table's units.

    Returns:
        y_pred (m, 1), float32, in the target's unit; not finite if a number or the prediction is too large for float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        X = (X.astype(np.float32) - tensors["mean"][0]) / tensors["scale"][0]
        y_pred = linear(X, tensors["W"][0], tensors["b"][0]) if is_linear(tensors) else _in_blocks(variant, tensors, X)
        return y_pred.astype(np.float32)


def is_linear(tensors: Mapping[str, object]) -> bool:
    """Tell whether parameters, by name, are those of a linear model: only these are named W and b."""
    return {"W", "b"} <= tensors.keys()


def linear(X: Array, W: Array, b: Array) -> Float64:
    """Compute X @ W + b as x1*w1 + x2*w2 + … + b, one column at a time.

    A matrix product sums in an order that depends on its library, the processor and the number of rows. Here, a row's
    bits depend on that row alone: in float64 a product of two float32 numbers is exact, with or without a fused
    multiply-add, and the sum's order is written down. Rounded to float32, the result is nearly always the float32
    number closest to the exact one; float32 sums would lose digits that the weights have.

    Args:
        X: (m, k), as the run saw it.
        W: (k, 1).
        b: (1,).

    Returns:
        y_pred (m, 1), float64.
    """
    y_pred = np.zeros((len(X), 1))
    for x, w in zip(X.T, W[:, 0], strict=True):
        y_pred[:, 0] += x.astype(np.float64) * np.float64(w)
    return y_pred + b.astype(np.float64)


def _in_blocks(variant: str, tensors: Mapping[str, Array], X: Array) -> Float64:
    # A block's number of rows changes no more than float64's last digits.
    forward, values = in_float64(variant, tensors, X.shape[1])
    blocks = [forward(values[0], X[at : at + ROWS]) for at in range(0, len(X), ROWS)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 1))


def in_float64(variant: str, tensors: Mapping[str, Array], k: int) -> tuple["Forward", Float64]:
    """Return a variant's own code, with torch, as a function in float64; see `parameters.forward_of`."""
    from pipeline.training import parameters  # noqa: PLC0415 - torch takes 1 s, and is absent where W and b are served

    return parameters.forward_of(variant, tensors, k)
