"""Train many runs at once with a model written for one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from pipeline.errors import InputError
from pipeline.training.parameters import filled, shapes_of, split, with_values
from pipeline.variants import Model

TOLERANCE = 1e-4  # relative to the largest number: rounding differs by 1e-6, another formula by about 1


def lift(model: Model, values: Tensor, k: int) -> Model:
    """Turn a model for one run into one for R runs, which predicts y_pred (R, m, 1) from X (R, m, k).

    Args:
        model: for one run and k features.
        values: (R, P), float: the parameters of each run.
        k: the number of features.

    Raises:
        InputError: the model cannot be lifted; the message says why.
    """
    reasons = []
    for name, way in (("by broadcasting", broadcast), ("by torch.func.vmap", Mapped)):
        reason = fault(model, way, k)
        if not reason:
            return way(model, values)
        reasons.append(f"{name}: {reason}")
    raise InputError(
        f"{type(model).__module__}: many runs cannot be trained at once with this model; {'; '.join(reasons)}. "
        "Write it with operations that take further axes in front, such as @, .mT and dim=-1"
    )


class StackedLinear(nn.Linear):
    """nn.Linear with weight (R, out, in) and bias (R, 1, out): one of each for every run."""

    def forward(self, X: Tensor) -> Tensor:
        """Map (R, m, in) to (R, m, out)."""
        return X @ self.weight.mT if self.bias is None else torch.baddbmm(self.bias, X, self.weight.mT)


def broadcast(model: Model, values: Tensor) -> Model:
    """Give every parameter a leading axis, and make each nn.Linear multiply stacks."""
    lifted = filled(model, [_aligned(part).requires_grad_() for part in split(values, shapes_of(model))])
    for module in lifted.modules() if isinstance(lifted, nn.Module) else ():
        if type(module) is nn.Linear:
            module.__class__ = StackedLinear
    return lifted


def _aligned(part: Tensor) -> Tensor:
    # () becomes (R, 1, 1), (k,) becomes (R, 1, k), (k, 1) becomes (R, k, 1): as broadcasting aligns them.
    return part.reshape(len(part), *(1,) * (3 - part.dim()), *part.shape[1:])


class Mapped:
    """A model mapped over the runs by torch.func: slower, for models that do not broadcast."""

    def __init__(self, model: Model, values: Tensor) -> None:
        """Take a model for one run, and the parameters (R, P) of R runs."""
        self.model = model
        self.stacked: Sequence[Tensor] = [part.requires_grad_() for part in split(values, shapes_of(model))]

    def parameters(self) -> Sequence[Tensor]:
        """List the parameters, each (R, …)."""
        return self.stacked

    def __call__(self, X: Tensor) -> Tensor:
        """Predict y_pred (R, m, 1) from X (R, m, k)."""

        def predict(parameters: Sequence[Tensor], X: Tensor) -> Tensor:
            return filled(self.model, parameters)(X)

        y_pred: Tensor = vmap(predict)(self.stacked, X)
        return y_pred


def part(lifted: Model, place: slice) -> Model:
    """Return a lifted model of some of its runs, whose parameters lie in its own parameters' memory."""
    return filled(lifted, [parameter.detach()[place].requires_grad_() for parameter in lifted.parameters()])


def values(lifted: Model) -> Tensor:
    """Return the parameters (R, P) of a lifted model."""
    return torch.cat([parameter.detach().flatten(1) for parameter in lifted.parameters()], dim=1)


def fault(model: Model, way: Callable[[Model, Tensor], Model], k: int) -> str:
    """Say how two lifted runs differ from two models alone, in prediction or gradient; empty if they do not.

    Raises:
        InputError: the model alone does not predict y_pred (m, 1).
    """
    chance = torch.Generator().manual_seed(0)
    count = sum(parameter.numel() for parameter in model.parameters())
    two, X = torch.randn(2, count, generator=chance), torch.randn(2, 3, k, generator=chance)
    pull = torch.randn(2, 3, 1, generator=chance)  # each prediction's weight in the gradient
    alone = [predict(with_values(model, two[r]), X[r], pull[r]) for r in range(2)]
    if alone[0][0].shape != (3, 1):
        raise InputError(f"{type(model).__module__}: its y_pred is {tuple(alone[0][0].shape)} for 3 rows, not (3, 1)")
    try:
        lifted = predict(way(model, two), X, pull)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return str(error).partition("\n")[0]
    for what, found, first, second in zip(("prediction", "gradient"), lifted, *alone, strict=True):
        expected = torch.stack([first, second])
        most = TOLERANCE * float(expected.abs().max())
        if found.numel() != expected.numel() or not found.view_as(expected).allclose(expected, rtol=0, atol=most):
            return f"its {what} differs from that of the model alone"
    return ""


def predict(model: Model, X: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Return a model's prediction and its gradient: (R, P), or (1, P) for one run."""
    y_pred, parameters = model(X), list(model.parameters())
    found = torch.autograd.grad((y_pred * pull).sum(), parameters, allow_unused=True, materialize_grads=True)
    return y_pred.detach(), torch.cat([one.reshape(len(X) if X.dim() == 3 else 1, -1) for one in found], dim=1)
