"""One regression, `y_pred = X @ W + b`, written four ways; read them in the order of the list in params.yaml.

Begin with autograd.py, and end with loop.py, which trains any of them. A file that has a `Model` is a variant.
"""

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # torch takes 1 s, and whoever only wants the names does not need it
    from torch import Tensor

MODEL = re.compile(r"^(class|def) Model\b", re.MULTILINE)


class Model(Protocol):
    """What each variant's `Model(k)` is, for k features."""

    def parameters(self) -> Iterable["Tensor"]:
        """List the tensors that training changes: W and then b, in whatever shapes."""

    def __call__(self, X: "Tensor") -> "Tensor":
        """Predict y_pred (m, 1) from X (m, k)."""


def names() -> list[str]:
    """List the variants: the files of this folder that define a Model."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return sorted(path.stem for path in files if MODEL.search(path.read_text(encoding="utf-8")))


def make(variant: str, k: int) -> Model:
    """Make the model of a variant, named by its file, for k features."""
    return cast("Model", import_module(f"{__name__}.{variant}").Model(k))
