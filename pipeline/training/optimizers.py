"""Optimizers for a stack of runs."""

from collections.abc import Iterable

import torch
from torch import Tensor


class SGD:
    """Plain gradient descent, `parameter -= lr · parameter.grad`, with one lr per run.

    torch.optim.SGD has one lr for all runs, and imports torch's compiler: 1 s per process.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor) -> None:
        """Take parameters (R, …), float32, that require gradients, and lr (R,), float32."""
        self.parameters = list(parameters)
        self.lr = [lr.view(-1, *(1,) * (parameter.dim() - 1)) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter in place."""
        for parameter, lr in zip(self.parameters, self.lr, strict=True):
            if parameter.grad is not None:
                parameter.addcmul_(parameter.grad, lr, value=-1)
