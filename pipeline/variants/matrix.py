"""Rung 2: one matrix holds all weights, and one product takes the place of the sum; any number of features."""

import torch
from torch import Tensor


class Model:
    """Linear regression with W (k, 1) and b (1,)."""

    def __init__(self, k: int) -> None:
        self.W = torch.zeros(k, 1, requires_grad=True)
        self.b = torch.zeros(1, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """List W, and then b."""
        return [self.W, self.b]

    def __call__(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k); b is broadcast over the rows."""
        return X @ self.W + self.b
