"""Runs that train together as one stack: how they are grouped, trained, and collected into records."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from pipeline import variants
from pipeline.params import BatchSize
from pipeline.records import Array, Record
from pipeline.sweep import Run, fingerprint
from pipeline.training import data, fit, lift, parameters
from pipeline.training.checkpoints import Checkpoints

STACK_FLOATS = 2**24  # the most numbers in one minibatch of a stack: 64 MB of float32


@dataclass(frozen=True)
class Fitted:
    """One fit, with all that it needs to go on.

    values: its parameters (P,). curve: (epochs,). diverged: the epoch in which it did, or -1. path: (T, P), if kept.
    epoch: the next one.
    """

    values: Tensor
    curve: Tensor
    diverged: int
    path: Tensor | None = None
    epoch: int = 0


@dataclass(frozen=True, eq=False)  # itself only: comparing and hashing fits would take longer than an epoch
class Stack:
    """Fits that train together: they share variant, batch size and number of training rows.

    fits: each a run and a split. rows: of training. begin: where each fit stands already, all at the same epoch; empty
    for a new stack. until: the epoch at which training stops for now; None for the last.
    """

    fits: tuple[tuple[Run, int], ...]
    rows: int
    begin: tuple[Fitted, ...] = ()
    until: int | None = None

    @property
    def batch_size(self) -> int:
        """The number of rows in a minibatch."""
        size = self.fits[0][0].batch_size
        return self.rows if size == "full" else min(size, self.rows)

    @property
    def key(self) -> str:
        """A hash of everything that determines the result, equal for the same fits in the same order."""
        until = {} if self.until is None else {"until": self.until}
        return fingerprint({"fits": [(run.fingerprint, split) for run, split in self.fits], **until})

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The runs that train on all training rows here: fingerprint -> place in `fits`."""
        return {run.fingerprint: r for r, (run, split) in enumerate(self.fits) if split == 0}


Follow = Callable[[Stack, Array, int], None]  # told of curves (R, epochs) and the number of epochs done


def group(runs: Sequence[Run], train_rows: Sequence[int], k: int) -> list[Stack]:
    """Group one variant's runs, each on every split, into stacks of at most STACK_FLOATS numbers per minibatch.

    Args:
        runs: of one variant.
        train_rows: the number of training rows of each split.
        k: the number of features.
    """
    groups: dict[tuple[BatchSize, int], list[tuple[Run, int]]] = defaultdict(list)
    for run, (split, rows) in product(runs, enumerate(train_rows)):
        groups[run.batch_size, rows].append((run, split))
    result = []
    for (_, rows), fits in groups.items():
        most = max(1, STACK_FLOATS // (Stack((fits[0],), rows).batch_size * k))
        result += [Stack(tuple(fits[start : start + most]), rows) for start in range(0, len(fits), most)]
    return result


def train(
    stack: Stack,
    prepared: data.Prepared,
    follow: Follow,
    checkpoints: Checkpoints | None = None,
    seed: int | None = None,
) -> list[Fitted]:
    """Train a stack; it takes and returns plain values, so that it can run anywhere.

    Args:
        stack: the fits.
        prepared: the data.
        follow: called after each epoch with the stack, its curves and the number of epochs done.
        checkpoints: where to resume from, and keep the state.
        seed: of the runs whose path on all training rows is kept.
    """
    first, k = stack.fits[0][0], prepared.X.shape[1]
    device = first.device
    # A batched product of one takes another path through MKL than that of two or more, and sums in another order.
    copies = 2 if len(stack.fits) == 1 else 1
    seeds = [run.seed for run, _ in stack.fits]
    values = (
        torch.stack([fitted.values for fitted in stack.begin * copies])
        if stack.begin
        else parameters.initial(first.variant, k, first.init, seeds * copies)
    )
    model = lift.lift(variants.make(first.variant, k), values.to(device), k)
    followed = [r for r, (run, split) in enumerate(stack.fits) if split == 0 and run.seed == seed]
    state = fit.State.initial(model, first.epochs, len(followed))
    go_on(state, stack.begin * copies)
    key = stack.key
    if checkpoints:
        checkpoints.resume(key, state)
    rows = data.Rows(prepared, [split for _, split in stack.fits], device)
    order = data.MinibatchOrder(seeds, len(rows), stack.batch_size, range(state.epoch, stack.until or first.epochs))
    lr = torch.tensor([run.lr for run, _ in stack.fits] * copies, device=device)

    def after_epoch(state: fit.State) -> None:
        follow(stack, state.curve.numpy(), state.epoch)
        if checkpoints:
            checkpoints.keep(key, state)

    fit.fit(model, state, data.minibatches(rows, order, copies), order.steps, lr, after_epoch, followed, stack.until)
    trained, paths = lift.values(model).cpu(), dict(zip(followed, state.path, strict=True))
    ends = list(zip(trained, state.curve, state.diverged.tolist(), strict=True))[: len(seeds)]
    return [Fitted(*end, paths.get(r), state.epoch) for r, end in enumerate(ends)]


def go_on(state: fit.State, fits: Sequence[Fitted]) -> None:
    """Set the state of a stack to that of its fits, if they have begun."""
    if not fits:
        return
    state.epoch = fits[0].epoch
    state.curve.copy_(torch.stack([fitted.curve for fitted in fits]))
    state.diverged.copy_(torch.tensor([fitted.diverged for fitted in fits]))
    kept = [fitted.path for fitted in fits if fitted.path is not None][: len(state.path)]
    if kept:
        state.path.copy_(torch.stack(kept))


def collect(run: Run, fits: Sequence[Fitted], prepared: data.Prepared) -> Record:
    """Build a run's record from its fits, one per split."""
    k, rows = prepared.X.shape[1], prepared.train[0]
    X, y = prepared.standardized(0)[rows], prepared.y[rows]
    values, shapes = torch.stack([fitted.values for fitted in fits]), parameters.shapes(run.variant, k)
    gradient = fit.gradient(variants.make(run.variant, k), values[0], X, y)
    tensors = {
        **parameters.named(values, shapes),
        **{f"grad_{name}": value for name, value in parameters.named(gradient, shapes).items()},
        "mean": prepared.mean,
        "scale": prepared.scale,
    }
    diverged = "; ".join(
        f"{f'fold {split}' if split else 'all training rows'}, epoch {fitted.diverged}"
        for split, fitted in enumerate(fits)
        if fitted.diverged >= 0
    )
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    path = fits[0].path
    return Record(run, diverged, fits[0].curve.numpy(), arrays, path=None if path is None else path.numpy())
