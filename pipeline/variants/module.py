"""Rung 4: a class of our own holds the layer; most PyTorch models are written this way."""

from functools import cache

from torch import Tensor, nn
from torch.func import functional_call


class LinearRegression(nn.Module):
    """A linear layer from k features to one prediction."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(k, 1, device="meta")

    def forward(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k)."""
        y_pred: Tensor = self.linear(X)
        return y_pred


@cache
def model(k: int) -> nn.Module:
    """Build the module without values of its own (device meta): it computes with the parameters it is given."""
    return LinearRegression(k)


def init(W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Name the module's linear.weight (1, k) and linear.bias (1,), from the initial W (k, 1) and b (1,)."""
    return {"linear.weight": W.mT, "linear.bias": b}


def forward(parameters: dict[str, Tensor], X: Tensor) -> Tensor:
    """Predict y_pred (m, 1) from X (m, k)."""
    y_pred: Tensor = functional_call(model(X.shape[-1]), parameters, X, tie_weights=False)
    return y_pred


def weights(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return W (k, 1) and b (1,)."""
    return parameters["linear.weight"].mT, parameters["linear.bias"]
