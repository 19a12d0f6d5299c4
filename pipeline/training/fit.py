"""The training loop: one for all variants, for a stack of runs at once; a single run is a stack of one."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from pipeline.training.data import Minibatch

Parameters = dict[str, Tensor]
Forward = Callable[[Parameters, Tensor], Tensor]


def mse(y_pred: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each run: (R, m, 1) and (R, m, 1) -> (R,), in the target's unit squared.

    Raises:
        ValueError: the shapes differ; broadcasting (m,) against (m, 1) would give a plausible wrong loss.
    """
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)}, y has {tuple(y.shape)}")
    return ((y_pred - y) ** 2).mean(dim=(-2, -1))


class SGD:
    """Plain gradient descent, `parameter -= lr · parameter.grad`, with an lr for each run.

    torch.optim.SGD has one lr for all and imports torch's compiler, 1 s a process.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor) -> None:
        """Take parameters (R, …, …), float32, that require gradients, and lr (R,), float32."""
        self.parameters = list(parameters)
        self.lr = lr.view(-1, 1, 1)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter in place."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.addcmul_(parameter.grad, self.lr, value=-1)


class _Broadcasting(TorchFunctionMode):
    """Let nn.Linear, made for one weight (1, k), take a stack of them (R, 1, k), as other operations do."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: Sequence[Tensor] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is linear and args[1].dim() == 3:
            X, weight, bias = args
            return torch.baddbmm(bias, X, weight.mT)
        return func(*args, **(kwargs or {}))


def stack(runs: Sequence[Parameters]) -> Parameters:
    """Stack the parameters of R runs along a new first axis, each padded to two more axes.

    () becomes (R, 1, 1), (k,) becomes (R, 1, k), (k, 1) becomes (R, k, 1): aligned as broadcasting aligns them, so that
    a forward written for one run predicts y_pred (R, m, 1) from X (R, m, k).
    """
    return {
        name: torch.stack([run[name].reshape((1,) * (2 - run[name].dim()) + run[name].shape) for run in runs])
        for name in runs[0]
    }


def unstack(stacked: Parameters, like: Parameters) -> list[Parameters]:
    """Undo `stack`: one run's parameters each, in the shapes of `like`."""
    count = len(next(iter(stacked.values())))
    return [{name: stacked[name][r].detach().reshape(like[name].shape) for name in like} for r in range(count)]


@dataclass
class State:
    """Where the training of R runs stands; all that is needed to go on.

    parameters: each (R, …, …), float32. curve: (R, epochs), float32, NaN where not trained.
    diverged: (R,), int64, the epoch in which the loss, or in the last one the parameters, stopped being finite; -1 for
    never. epoch: the next one.
    """

    parameters: Parameters
    curve: Tensor
    diverged: Tensor
    epoch: int = 0

    @classmethod
    def initial(cls, parameters: Parameters, epochs: int) -> "State":
        """Begin with stacked parameters."""
        count = len(next(iter(parameters.values())))
        return cls(parameters, torch.full((count, epochs), torch.nan), torch.full((count,), -1))


def fit(
    forward: Forward,
    state: State,
    minibatches: Iterator[Minibatch],
    steps: int,
    lr: Tensor,
    after_epoch: Callable[[State], object],
) -> State:
    """Train a stack of R runs from `state.epoch` to its last epoch, in place.

    A run's loss of an epoch is the mean over its rows of the minibatch losses, each taken before its update. A run
    whose loss stops being finite keeps the parameters that it has then.

    Args:
        forward: a variant's, written for one run.
        state: where to begin.
        minibatches: X (R, m, k), y (R, m, 1), float32, of all epochs from `state.epoch` on.
        steps: how many of them make an epoch.
        lr: (R,), float32.
        after_epoch: called with the state after each epoch.

    Returns:
        the state.
    """
    parameters = [parameter.requires_grad_() for parameter in state.parameters.values()]
    optimizer = SGD(parameters, lr)
    alive = (state.diverged < 0).to(lr.device)
    for epoch in range(state.epoch, state.curve.shape[1]):
        total, rows = torch.zeros_like(lr, dtype=torch.float64), 0  # finite losses may sum to more than float32 holds
        for X, y in islice(minibatches, steps):
            with _Broadcasting():
                y_pred = forward(state.parameters, X)  # (R, m, 1)
            losses = mse(y_pred, y)  # (R,)
            loss = losses.sum()  # each run's gradient is that of its own loss
            optimizer.zero_grad()
            loss.backward()
            if not math.isfinite(loss.item()):
                alive &= losses.detach().isfinite()
            if not alive.all():
                _hold(parameters, ~alive)
            optimizer.step()
            total += losses.detach().double() * X.shape[1]
            rows += X.shape[1]
        state.curve[:, epoch] = torch.where(alive, total / rows, torch.nan).cpu()
        state.diverged[~alive.cpu() & (state.diverged < 0)] = epoch
        state.epoch = epoch + 1
        after_epoch(state)
    finite = torch.stack([parameter.detach().isfinite().flatten(1).all(dim=1) for parameter in parameters]).all(dim=0)
    state.diverged[~finite.cpu() & (state.diverged < 0)] = state.epoch - 1  # the last update went too far
    return state


def _hold(parameters: Iterable[Tensor], runs: Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad[runs] = 0


def gradient(forward: Forward, parameters: Parameters, X: Tensor, y: Tensor) -> Parameters:
    """Take autograd's gradient of one run's loss at X (n, k), y (n, 1); each in its parameter's shape, float32."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    loss = mse(forward(leaves, X), y)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
