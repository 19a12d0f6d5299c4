"""A model's parameters, as one vector and by name, as a record has them for any model.

A served model that is not linear carries this file, so it imports the variants alone.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from pipeline import variants
from pipeline.variants import Model

Float64 = NDArray[np.float64]
Forward = Callable[[Float64, NDArray[np.floating]], Float64]  # values (P,), X (m, k) -> y_pred (m, 1)
LINEAR = ("W", "b")  # the parameters of a linear model, and of no other
Shapes = Mapping[str, tuple[int, ...]]


def filled(model: Model, tensors: Sequence[Tensor]) -> Model:
    """Return a copy of a model with `tensors` in place of its parameters, in their order."""
    replaced = {id(parameter): tensor for parameter, tensor in zip(model.parameters(), tensors, strict=True)}
    return copy.deepcopy(model, replaced)


def shapes_of(model: Model) -> list[tuple[int, ...]]:
    """List the shapes of a model's parameters."""
    return [tuple(parameter.shape) for parameter in model.parameters()]


def split(vector: Tensor, into: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cut (…, P) into copies, each (…, *shape) for the shapes in `into`."""
    parts = zip(vector.detach().split([math.prod(shape) for shape in into], dim=-1), into, strict=True)
    return [part.reshape(*vector.shape[:-1], *shape).clone() for part, shape in parts]


def with_values(model: Model, vector: Tensor) -> Model:
    """Return a copy of a model whose parameters are the values of a vector (P,) of any float dtype."""
    return filled(model, [part.requires_grad_() for part in split(vector, shapes_of(model))])


@cache
def shapes(variant: str, k: int) -> Shapes:
    """Return a variant's parameters, in order, as name -> shape: W (k, 1) and b (1,) if it is linear."""
    model = variants.make(variant, k)
    if _is_linear(model, k):
        return dict(zip(LINEAR, ((k, 1), (1,)), strict=True))
    if isinstance(model, nn.Module):
        own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        return {f"parameter_{name}" if name in LINEAR else name: shape for name, shape in own.items()}
    return {f"parameter_{i}": shape for i, shape in enumerate(shapes_of(model), start=1)}


def _is_linear(model: Model, k: int) -> bool:
    # Tests whether a model predicts y_pred = X @ W + b, with parameters W and b in this order.
    if sum(map(math.prod, shapes_of(model))) != k + 1:
        return False
    chance = torch.Generator().manual_seed(0)
    values, X = torch.randn(k + 1, generator=chance), torch.randn(8, k, generator=chance)
    with torch.no_grad():
        y_pred = with_values(model, values)(X)
    return y_pred.shape == (8, 1) and y_pred.allclose(X @ values[:k, None] + values[k], rtol=1e-4, atol=1e-4)


def named(values: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Cut vectors (…, P) into named tensors (…, *shape)."""
    return dict(zip(shapes, split(values, list(shapes.values())), strict=True))


def joined(tensors: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """Join named tensors (S, *shape) to vectors (S, P)."""
    return torch.cat([tensors[name].flatten(1) for name in shapes], dim=1)


def forward_of(variant: str, tensors: Mapping[str, NDArray[np.float32]], k: int) -> tuple[Forward, Float64]:
    """Return a variant's model as a function in float64, and the values of fits for it.

    Args:
        variant: its name.
        tensors: its parameters by name, each (S, …), of S fits.
        k: the number of features.

    Returns:
        values (P,) and X (m, k) -> y_pred (m, 1), and the fits' values (S, P).
    """
    made, own = variants.make(variant, k), shapes(variant, k)
    model = made.double() if isinstance(made, nn.Module) else made
    values = joined({name: torch.from_numpy(tensors[name]) for name in own}, own).double()

    def forward(values: Float64, X: NDArray[np.floating]) -> Float64:
        with torch.no_grad():
            y_pred = with_values(model, torch.from_numpy(values))(torch.from_numpy(X).double())
            return np.asarray(y_pred.numpy(), dtype=np.float64)

    return forward, values.numpy()


def initial(variant: str, k: int, inits: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Return the initial parameters (R, P), float32, of R runs of a variant with k features.

    Args:
        variant: its name.
        k: the number of features.
        inits: of each run, zeros; or default: drawn with its seed, by nn.Linear for a linear model, else by the model.
        seeds: one per run.
    """
    values = torch.zeros(len(seeds), sum(map(math.prod, shapes_of(variants.make(variant, k)))))
    linear = set(shapes(variant, k)) == set(LINEAR)
    for r, (init, seed) in enumerate(zip(inits, seeds, strict=True)):
        if init == "default":
            torch.manual_seed(seed)
            model = nn.Linear(k, 1) if linear else variants.make(variant, k)
            values[r] = parameters_to_vector(model.parameters()).detach()
    return values
