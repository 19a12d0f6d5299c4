"""The training loop: one for all variants, for a stack of runs at once; a single run is a stack of one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pipeline.runs.run import PATH_POINTS, Run, curve_steps
from pipeline.training.minibatches import Minibatch
from pipeline.training.optimizers import Optimizer
from pipeline.variants import Model

Loss = Callable[[Tensor, Tensor], Tensor]
CROWD = 4  # fits that left stay in the stack until one in CROWD has left: composing a stack takes some epochs' time


def mse(y_pred: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error of each run: (R, m, 1) and (R, m, 1) -> (R,), in the target's unit squared.

    Raises:
        ValueError: the shapes differ; broadcasting (m,) against (m, 1) would give a plausible wrong loss.
    """
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)}, y has {tuple(y.shape)}")
    return ((y_pred - y) ** 2).mean(dim=(-2, -1))


def loss_of(run: Run) -> Loss:
    """Return what a run minimizes: its mean over the rows of each run, (R, m, 1) and (R, m, 1) -> (R,)."""
    if run.loss == "huber":
        delta = run.huber_delta or 1.0
        return lambda y_pred, y: F.huber_loss(y_pred, y, reduction="none", delta=delta).mean(dim=(-2, -1))
    if run.loss == "mae":
        return lambda y_pred, y: F.l1_loss(y_pred, y, reduction="none").mean(dim=(-2, -1))
    return mse


@dataclass
class State:
    """The state of R runs in training: all that is needed to resume.

    parameters: of the lifted model, each (R, …), float32. curve: (R, epochs), float32, NaN where not trained.
    diverged: (R,), int64, the epoch in which the loss, or in the last one the parameters, stopped being finite, or -1.
    path: (F, T, P), float32, the parameters of F of the runs after each of T epochs, NaN where not trained.
    left: (R,), int64, the epoch after which the fit left, or -1.
    epoch: the next one. optimizer: the optimizer's state, such as momentum, each (R, …); empty for SGD.
    """

    parameters: list[Tensor]
    curve: Tensor
    diverged: Tensor
    path: Tensor
    left: Tensor
    epoch: int = 0
    optimizer: list[Tensor] = field(default_factory=list)

    @classmethod
    def initial(cls, model: Model, epochs: int, followed: int = 0) -> "State":
        """Return the state of a lifted model before its first epoch; the paths of `followed` runs are kept."""
        parameters = list(model.parameters())
        count, size = len(parameters[0]), sum(parameter[0].numel() for parameter in parameters)
        path = torch.full((followed, len(curve_steps(epochs, PATH_POINTS)), size), torch.nan)
        never = torch.full((count,), -1)
        return cls(parameters, torch.full((count, epochs), torch.nan), never, path, never.clone())

    @property
    def going(self) -> Tensor:
        """Which runs (R,) train on: those that have neither diverged nor left."""
        return (self.diverged < 0) & (self.left < 0)


@dataclass(frozen=True, eq=False)  # itself only
class Part:
    """Neighbours in a stack that take a step of an epoch together: all, or some where the others have no rows left.

    place: which of the R runs. model: lifted, for these. parameters: the model's, each (r, …), in the stack's memory.
    optimizer: of those.
    """

    place: slice
    model: Model
    parameters: Sequence[Tensor]
    optimizer: Optimizer


class Patience:
    """Tells which runs are not worth going on with: those whose curve has not fallen for some epochs."""

    def __init__(self, patience: int, min_delta: float, curve: Tensor, epoch: int) -> None:
        """Look at the epochs that are done of a curve (R, epochs)."""
        self.patience, self.min_delta = patience, min_delta
        self.best = torch.full((len(curve),), torch.inf, dtype=torch.float64)
        self.waited = torch.zeros(len(curve), dtype=torch.int64)
        for done in range(epoch):
            self.look(curve[:, done])

    def look(self, losses: Tensor) -> Tensor:
        """Look at an epoch's losses (R,); tell which runs have waited too long."""
        better = losses.double() < self.best - self.min_delta
        self.best = torch.where(better, losses.double(), self.best)
        self.waited = torch.where(better, 0, self.waited + 1)
        return self.waited >= self.patience


def fit(
    run: Run,
    state: State,
    minibatches: Iterator[Minibatch],
    steps: Sequence[Part],
    rows: Tensor,
    after_epoch: Callable[[State], object],
    followed: Sequence[int],
    until: int | None = None,
) -> State:
    """Train a stack of R runs from `state.epoch` on, in place, to its last epoch or until many of them have left.

    A run's loss in an epoch is the mean over its rows of the minibatch losses, each taken before its update. A run
    whose loss stops being finite keeps the parameters it had then, and so does one that has left.

    Args:
        run: one of them; they share what is minimized, and when runs leave. The curve is the mean squared error.
        state: the initial one.
        minibatches: X (r, m, k), y (r, m, 1), float32, for all epochs from `state.epoch` on.
        steps: of an epoch, each with the part that takes a minibatch.
        rows: (R,), each run's rows in an epoch.
        after_epoch: called with the state after each epoch.
        followed: the F runs whose path is kept, at the epochs of `curve_steps`.
        until: the number of epochs to have done at the end; None for all.

    Returns:
        `state`.
    """
    parameters, epochs, parts = state.parameters, state.curve.shape[1], dict.fromkeys(steps)
    patience = Patience(run.patience, run.min_delta or 0.0, state.curve, state.epoch) if run.patience else None
    loss, device = loss_of(run), parameters[0].device
    going = state.going.to(device)
    kept = {epoch: place for place, epoch in enumerate(curve_steps(epochs, PATH_POINTS)) if followed}
    for epoch in range(state.epoch, epochs if until is None else until):
        for part in parts:
            part.optimizer.begin(epoch)
        total = _epoch(minibatches, steps, going, loss)
        state.curve[:, epoch] = torch.where(going, total / rows, torch.nan).cpu()
        state.diverged[~going.cpu() & state.going] = epoch
        if epoch in kept:
            now = torch.cat([one.detach()[followed].flatten(1) for one in parameters], dim=1).cpu()
            state.path[:, kept[epoch]] = torch.where(state.left[followed][:, None] < 0, now, torch.nan)
        state.epoch = epoch + 1
        if patience and epoch + 1 < epochs:
            _leave(state, patience.look(state.curve[:, epoch]))
            going = state.going.to(device)
        after_epoch(state)
        if patience and CROWD * int((state.left >= 0).sum()) >= len(going):
            return state
    if state.epoch == epochs:
        state.diverged[~_finite(parameters) & (state.diverged < 0)] = epochs - 1  # the last update went too far
    return state


def _epoch(minibatches: Iterator[Minibatch], steps: Sequence[Part], going: Tensor, loss: Loss) -> Tensor:
    # Takes an epoch's steps; clears `going` where a loss is not finite, and returns each run's squared errors (R,).
    total = torch.zeros(len(going), dtype=torch.float64, device=going.device)  # float32 sums may overflow
    for part, (X, y) in zip(steps, minibatches, strict=False):
        y_pred = part.model(X)
        losses = mse(y_pred, y)  # (R,)
        error = losses.sum()
        # The sum gives each run the gradient of its own loss.
        minimized = error if loss is mse else loss(y_pred, y).sum()
        for parameter in part.parameters:
            parameter.grad = None
        minimized.backward()
        if not math.isfinite(error.item()):
            going[part.place].logical_and_(losses.detach().isfinite())
        _step(part, going[part.place])
        total[part.place].add_(losses.detach().double() * X.shape[1])
    return total


def _step(part: Part, going: Tensor) -> None:
    if going.all():
        part.optimizer.step()
        return
    before = [parameter.detach().clone() for parameter in part.parameters]
    part.optimizer.step()
    with torch.no_grad():
        for parameter, values in zip(part.parameters, before, strict=True):
            parameter[~going] = values[~going]


def _leave(state: State, waited: Tensor) -> None:
    # A diverged run leaves as well, and one that waited is looked at as at the end of training.
    staying = state.left < 0
    state.diverged[staying & waited & (state.diverged < 0) & ~_finite(state.parameters)] = state.epoch - 1
    state.left[staying & (waited | (state.diverged >= 0))] = state.epoch - 1


def _finite(parameters: Sequence[Tensor]) -> Tensor:
    finite = [parameter.detach().isfinite().flatten(1).all(dim=1) for parameter in parameters]
    return torch.stack(finite).all(dim=0).cpu()


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
