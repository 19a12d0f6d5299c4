"""Rung 1: every weight is a tensor of its own, and the formula is written out: x1*w1 + x2*w2 + … + b."""

import torch
from torch import Tensor


class Model:
    """Linear regression with k weights w1, w2, … and b, each of shape (1,)."""

    def __init__(self, k: int) -> None:
        self.w = [torch.zeros(1, requires_grad=True) for _ in range(k)]
        self.b = torch.zeros(1, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """List the weights, and then b."""
        return [*self.w, self.b]

    def __call__(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k), one column at a time."""
        x1, *others = X.split(1, dim=-1)  # each (m, 1)
        w1, *weights = self.w
        y_pred: Tensor = x1 * w1
        for x, w in zip(others, weights, strict=True):
            y_pred = y_pred + x * w
        return y_pred + self.b
