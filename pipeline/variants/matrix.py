"""Rung 2: one matrix holds all weights, and one product takes the place of the sum; any number of features."""

from torch import Tensor


def init(W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Name the matrix W (k, 1) and the bias b (1,)."""
    return {"W": W, "b": b}


def forward(parameters: dict[str, Tensor], X: Tensor) -> Tensor:
    """Predict y_pred (m, 1) from X (m, k); b is broadcast over the rows."""
    return X @ parameters["W"] + parameters["b"]


def weights(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return W (k, 1) and b (1,)."""
    return parameters["W"], parameters["b"]
