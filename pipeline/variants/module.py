"""Rung 4: a class of our own holds the layer; most PyTorch models are written this way."""

from torch import Tensor, nn


class Model(nn.Module):
    """Linear regression by a layer from k features to one prediction."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(k, 1)

    def forward(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k)."""
        y_pred: Tensor = self.linear(X)
        return y_pred
