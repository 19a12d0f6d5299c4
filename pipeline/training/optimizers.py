"""Optimizers for a stack of runs, each with its own lr and weight decay.

torch.optim has one lr for all runs, and imports torch's compiler: 1 s per process. Only + − × ÷ and 1/√ are used,
rounded as IEEE 754 says, so that a run's bits depend neither on its place in the stack nor on the processor.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

import torch
from torch import Tensor

from pipeline.runs.run import Run
from pipeline.training.schedules import EXACT, Rates

# Tensors of state for each parameter.
SLOTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2}
COUNTING = frozenset({"adam", "adamw"})  # whose corrections depend on the number of steps, the same for all of a stack


class Optimizer(Protocol):
    """Updates a stack's parameters from their gradients."""

    def begin(self, epoch: int) -> None:
        """Set the rates of an epoch; called before its first step."""

    def step(self) -> None:
        """Update every parameter in place."""


def initial(name: str, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return an optimizer's state before the first step: SLOTS tensors for each parameter, of its shape."""
    return [torch.zeros_like(parameter) for _ in range(SLOTS[name]) for parameter in parameters]


def make(runs: Sequence[Run], parameters: Sequence[Tensor], state: Sequence[Tensor], steps: int) -> Optimizer:
    """Make the optimizer of a stack.

    Args:
        runs: R, which share the optimizer and its settings, but not lr, its schedule and weight decay.
        parameters: (R, …) each, which require gradients.
        state: from `initial`, and from then on the optimizer's; kept in place.
        steps: the number of minibatches per epoch.
    """
    first, count = runs[0], len(parameters)
    decay = [run.weight_decay for run in runs]
    per_run = PerRun(parameters, Rates(runs), torch.tensor(decay, dtype=torch.float64) if any(decay) else None)
    if first.beta1 is not None and first.beta2 is not None and first.eps is not None:
        moments, betas = (state[:count], state[count:]), (first.beta1, first.beta2)
        return Adam(parameters, per_run, moments, betas, first.eps, steps, first.optimizer == "adamw")
    return SGD(parameters, per_run, state, first.momentum or 0.0, first.optimizer == "nesterov")


class PerRun:
    """The numbers that differ from run to run, shaped to multiply the parameters."""

    def __init__(self, parameters: Sequence[Tensor], rates: Rates, decay: Tensor | None = None) -> None:
        """Take parameters (R, …), their rates, and weight decays (R,), float64; None if there is none."""
        self.parameters, self.rates = parameters, rates
        self.decay = decay
        self.now = rates.at(0)
        self.decays = self.shaped(decay) if decay is not None else [None] * len(parameters)

    def shaped(self, values: Tensor) -> list[Tensor]:
        """Return values (R,), float64, for each parameter as (R, 1, …), in its dtype."""
        return [values.to(one).view(-1, *(1,) * (one.dim() - 1)) for one in self.parameters]

    def at(self, epoch: int) -> bool:
        """Set `now` (R,), float64, to the rates of an epoch; tell whether they may have changed."""
        if self.rates.constant:
            return False
        self.now = self.rates.at(epoch)
        return True


def decayed(parameter: Tensor, gradient: Tensor, decay: Tensor | None) -> Tensor:
    """Add the gradient of decay/2 · ‖parameter‖²."""
    return gradient if decay is None else gradient + decay * parameter


class SGD:
    """parameter -= lr · gradient; with momentum, lr · velocity, where velocity = momentum · velocity + gradient.

    Nesterov's looks ahead. See: torch.optim.SGD.
    """

    def __init__(
        self, parameters: Sequence[Tensor], per_run: PerRun, state: Sequence[Tensor], momentum: float, nesterov: bool
    ) -> None:
        """Take parameters (R, …) that require gradients, and their velocities as `state`; empty without momentum."""
        self.parameters, self.per_run = parameters, per_run
        self.velocities: Sequence[Tensor | None] = state or [None] * len(parameters)
        self.momentum, self.nesterov = momentum, nesterov
        self.lr = per_run.shaped(per_run.now)

    def begin(self, epoch: int) -> None:
        """Set the rates of an epoch."""
        if self.per_run.at(epoch):
            self.lr = self.per_run.shaped(self.per_run.now)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter and velocity in place."""
        own = zip(self.parameters, self.velocities, self.lr, self.per_run.decays, strict=True)
        for parameter, velocity, lr, decay in own:
            if parameter.grad is None:
                continue
            gradient = decayed(parameter, parameter.grad, decay)
            if velocity is not None:
                velocity.mul_(self.momentum).add_(gradient)
                gradient = gradient + velocity * self.momentum if self.nesterov else velocity
            parameter.addcmul_(gradient, lr, value=-1)


class Adam:
    """Adam, and AdamW, which shrinks the parameters themselves. See: torch.optim.Adam and AdamW."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        per_run: PerRun,
        moments: tuple[Sequence[Tensor], Sequence[Tensor]],
        betas: tuple[float, float],
        eps: float,
        steps: int,
        decoupled: bool,
    ) -> None:
        """Take parameters (R, …), and the running means of their gradients and of the squares as `moments`."""
        self.parameters, self.per_run, self.moments = parameters, per_run, moments
        self.betas, self.eps, self.steps, self.decoupled = betas, eps, steps, decoupled
        self.done = 0  # steps since the first epoch
        self.kept = self._kept()

    def begin(self, epoch: int) -> None:
        """Set the rates of an epoch."""
        self.done = epoch * self.steps
        if self.per_run.at(epoch):
            self.kept = self._kept()

    def _kept(self) -> Sequence[Tensor | None]:
        # What AdamW leaves of the parameters, (R, 1, …) each.
        decay = self.per_run.decay
        if decay is None or not self.decoupled:
            return [None] * len(self.parameters)
        return self.per_run.shaped(1 - self.per_run.now * decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter and its moments in place."""
        self.done += 1
        first, second = (float(1 - EXACT.power(Decimal(beta), self.done)) for beta in self.betas)
        sizes = self.per_run.shaped(self.per_run.now / first)
        decays = [None] * len(self.parameters) if self.decoupled else self.per_run.decays
        own = zip(self.parameters, *self.moments, sizes, self.kept, decays, strict=True)
        for parameter, mean, square, size, kept, decay in own:
            if parameter.grad is None:
                continue
            if kept is not None:
                parameter.mul_(kept)
            gradient = decayed(parameter, parameter.grad, decay)
            mean.add_((gradient - mean) * (1 - self.betas[0]))
            square.mul_(self.betas[1]).add_(gradient * gradient * (1 - self.betas[1]))
            root = square.rsqrt().reciprocal_()  # torch's sqrt is MKL's, whose last bit differs between processors
            parameter.sub_((mean * size).div_((root / math.sqrt(second)).add_(self.eps)))
