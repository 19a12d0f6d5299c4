"""The training loop: one for all variants, for a stack of runs at once; a single run is a stack of one."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pipeline.sweep import curve_steps
from pipeline.training.data import Minibatch
from pipeline.training.optimizers import SGD
from pipeline.variants import Model

PATH_POINTS = 101  # the most epochs at which a path is kept; track.points would retrain a sweep for a curve's sake


def mse(y_pred: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error of each run: (R, m, 1) and (R, m, 1) -> (R,), in the target's unit squared.

    Raises:
        ValueError: the shapes differ; broadcasting (m,) against (m, 1) would give a plausible wrong loss.
    """
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)}, y has {tuple(y.shape)}")
    return ((y_pred - y) ** 2).mean(dim=(-2, -1))


@dataclass
class State:
    """The state of R runs in training: all that is needed to resume.

    parameters: of the lifted model, each (R, …), float32. curve: (R, epochs), float32, NaN where not trained.
    diverged: (R,), int64, the epoch in which the loss, or in the last one the parameters, stopped being finite, or -1.
    path: (F, T, P), float32, the parameters of F of the runs after each of T epochs, NaN where not trained.
    epoch: the next one. optimizer: the optimizer's state, such as momentum, each (R, …); empty for SGD.
    """

    parameters: list[Tensor]
    curve: Tensor
    diverged: Tensor
    path: Tensor
    epoch: int = 0
    optimizer: list[Tensor] = field(default_factory=list)

    @classmethod
    def initial(cls, model: Model, epochs: int, followed: int = 0) -> "State":
        """Begin with a lifted model, and keep the path of as many runs as `followed` says."""
        parameters = list(model.parameters())
        count, size = len(parameters[0]), sum(parameter[0].numel() for parameter in parameters)
        path = torch.full((followed, len(curve_steps(epochs, PATH_POINTS)), size), torch.nan)
        return cls(parameters, torch.full((count, epochs), torch.nan), torch.full((count,), -1), path)


def fit(
    model: Model,
    state: State,
    minibatches: Iterator[Minibatch],
    steps: int,
    lr: Tensor,
    after_epoch: Callable[[State], object],
    followed: Sequence[int] = (),
    until: int | None = None,
) -> State:
    """Train a stack of R runs from `state.epoch` to `until`, or its last epoch, in place.

    A run's loss in an epoch is the mean over its rows of the minibatch losses, each taken before its update. A run
    whose loss stops being finite keeps the parameters it had then.

    Args:
        model: a lifted one.
        state: the initial state, with that model's parameters.
        minibatches: X (R, m, k), y (R, m, 1), float32, for all epochs from `state.epoch` on.
        steps: the number of minibatches per epoch.
        lr: (R,), float32.
        after_epoch: called with the state after each epoch.
        followed: the F runs whose path is kept, at the epochs of `curve_steps`.
        until: the epoch at which it stops for now.

    Returns:
        `state`.
    """
    parameters = state.parameters
    optimizer = SGD(parameters, lr)
    alive = (state.diverged < 0).to(lr.device)
    kept = {epoch: place for place, epoch in enumerate(curve_steps(state.curve.shape[1], PATH_POINTS)) if followed}
    for epoch in range(state.epoch, until or state.curve.shape[1]):
        total, rows = torch.zeros_like(lr, dtype=torch.float64), 0  # finite losses may overflow a float32 sum
        for X, y in islice(minibatches, steps):
            losses = mse(model(X), y)  # (R,)
            loss = losses.sum()  # gives each run the gradient of its own loss
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
        if epoch in kept:
            state.path[:, kept[epoch]] = torch.cat(
                [one.detach()[followed].flatten(1) for one in parameters], dim=1
            ).cpu()
        state.epoch = epoch + 1
        after_epoch(state)
    finite = torch.stack([parameter.detach().isfinite().flatten(1).all(dim=1) for parameter in parameters]).all(dim=0)
    state.diverged[~finite.cpu() & (state.diverged < 0)] = state.epoch - 1  # the last update went too far
    return state


def _hold(parameters: Iterable[Tensor], runs: Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad[runs] = 0


def gradient(model: Model, values: Tensor, X: Tensor, y: Tensor) -> Tensor:
    """Return autograd's gradient (P,) of one run's loss on X (n, k), y (n, 1).

    Args:
        model: for one run; its parameters are set to `values`.
        values: its parameters (P,).
        X: the rows.
        y: their targets.
    """
    vector_to_parameters(values, model.parameters())
    return parameters_to_vector(torch.autograd.grad(mse(model(X), y), list(model.parameters())))
