"""One regression, `y_pred = X @ W + b`, written four ways; read them in the order of the list in params.yaml.

Each is written for one run and has the same three functions: `init` turns the initial values into the variant's
own parameters, `forward` predicts, `weights` turns the parameters (or their gradients) back. `fit` trains many
runs at once by giving every parameter a leading axis, so a variant keeps to operations that broadcast over it.
"""

from importlib import import_module
from typing import Protocol, cast

from torch import Tensor


class Variant(Protocol):
    """What each file of this folder has."""

    @staticmethod
    def init(W: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Name the parameters of one run, from the initial W (k, 1) and b (1,), float32."""

    @staticmethod
    def forward(parameters: dict[str, Tensor], X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k), float32."""

    @staticmethod
    def weights(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return W (k, 1) and b (1,), float32."""


def variant(name: str) -> Variant:
    """Import a variant by its file's name."""
    return cast("Variant", import_module(f"{__name__}.{name}"))
