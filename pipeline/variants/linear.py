"""Rung 3: nn.Linear(k, 1) makes and names the parameters, and multiplies; it keeps W as a row, (1, k)."""

from functools import cache

from torch import Tensor, nn
from torch.func import functional_call


@cache
def model(k: int) -> nn.Module:
    """Build the layer without values of its own (device meta): it computes with the parameters it is given."""
    return nn.Linear(k, 1, device="meta")


def init(W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Name the layer's weight (1, k) and bias (1,), from the initial W (k, 1) and b (1,)."""
    return {"weight": W.mT, "bias": b}


def forward(parameters: dict[str, Tensor], X: Tensor) -> Tensor:
    """Predict y_pred (m, 1) from X (m, k)."""
    y_pred: Tensor = functional_call(model(X.shape[-1]), parameters, X, tie_weights=False)
    return y_pred


def weights(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return W (k, 1) and b (1,)."""
    return parameters["weight"].mT, parameters["bias"]
