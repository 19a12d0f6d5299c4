"""One regression, `y_pred = X @ W + b`, written four ways; read them in the order of the list in params.yaml.

Begin with autograd.py, and end with loop.py, which trains any of them. A file that has a `Model` is a variant.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor


class Model(Protocol):
    """What each variant's `Model(k)` is, for k features."""

    def parameters(self) -> Iterable[Tensor]:
        """List the tensors that training changes: W and then b, in whatever shapes."""

    def __call__(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k)."""


def make(variant: str, k: int) -> Model:
    """Make the model of a variant, named by its file, for k features."""
    return cast("Model", import_module(f"{__name__}.{variant}").Model(k))
