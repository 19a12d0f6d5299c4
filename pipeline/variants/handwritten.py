"""Rung 1: every weight is a tensor of its own, and the formula is written out: x1*w1 + x2*w2 + … + b."""

import torch
from torch import Tensor


def init(W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Name one scalar per weight: w1, w2, … and b, from the initial W (k, 1) and b (1,)."""
    return {f"w{i}": w for i, w in enumerate(W.flatten(), start=1)} | {"b": b[0]}


def forward(parameters: dict[str, Tensor], X: Tensor) -> Tensor:
    """Predict y_pred (m, 1) from X (m, k), one column at a time."""
    columns = enumerate(X.split(1, dim=-1), start=1)  # each (m, 1)
    first, *others = [x * parameters[f"w{i}"] for i, x in columns]
    y_pred: Tensor = sum(others, start=first) + parameters["b"]
    return y_pred


def weights(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return W (k, 1) and b (1,)."""
    *w, b = parameters.values()
    return torch.stack(w).unsqueeze(1), b.unsqueeze(0)
