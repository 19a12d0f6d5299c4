"""Runs that train together as one stack: how they are grouped, trained, and collected into records."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from pipeline import variants
from pipeline.records import Array, Record
from pipeline.sweep import Run, fingerprint
from pipeline.table.prepared import Prepared
from pipeline.training import data, fit, lift, optimizers, parameters
from pipeline.training.checkpoints import Checkpoints

STACK_FLOATS = 2**20  # the most numbers in one minibatch of a stack: 4 MB of float32, which a processor's cache holds


@dataclass(frozen=True)
class Fitted:
    """One fit, as far as it is trained: all that it needs to go on.

    values: its parameters (P,). curve: (epochs,), NaN where not trained. diverged: the epoch in which it did, or -1.
    path: (T, P), if kept. epoch: the number of epochs done. optimizer: its state, a tensor (…) each; none at the end.
    left: why and when it left its stack, empty if it did not.
    """

    values: Tensor
    curve: Tensor
    diverged: int
    path: Tensor | None = None
    epoch: int = 0
    optimizer: tuple[Tensor, ...] = ()
    left: str = ""


@dataclass(frozen=True, eq=False)  # itself only: comparing and hashing fits would take longer than an epoch
class Stack:
    """Fits that train together: they share variant, batch size, number of training rows, optimizer, loss and epochs.

    fits: each a run and a split. rows: of training. begin: where each fit stands already, all after as many epochs but
    those that have left, which are not trained; empty for a new stack. until: the number of epochs after which training
    pauses; None for all.
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
        begun = next((one.epoch for one in self.begin if not one.left), 0)  # how they came there follows from the fits
        own = {"begin": begun, "until": self.until} if begun or self.until else {}
        return fingerprint({"fits": [(run.fingerprint, split) for run, split in self.fits], **own})

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The runs that train on all training rows here: fingerprint -> place in `fits`."""
        return {run.fingerprint: r for r, (run, split) in enumerate(self.fits) if split == 0}


Follow = Callable[[Stack, Array, int], None]  # told of curves (R, epochs) and the number of epochs done


def group(runs: Sequence[Run], train_rows: Sequence[int], k: int, first: int = 0) -> list[Stack]:
    """Group one variant's runs, each on every split, into stacks of at most STACK_FLOATS numbers per minibatch.

    Args:
        runs: of one variant.
        train_rows: the number of training rows of each split.
        k: the number of features.
        first: the number of the first of these splits.
    """
    groups: dict[tuple[object, ...], list[tuple[Run, int]]] = defaultdict(list)
    for run, (split, rows) in product(runs, enumerate(train_rows, start=first)):
        groups[rows, run.batch_size, run.optimizer, run.loss, run.epochs].append((run, split))
    result = []
    for fits in groups.values():
        rows = train_rows[fits[0][1] - first]
        most = max(1, STACK_FLOATS // (Stack((fits[0],), rows).batch_size * k))
        result += [Stack(tuple(fits[start : start + most]), rows) for start in range(0, len(fits), most)]
    return result


def train(
    stack: Stack,
    prepared: Prepared,
    follow: Follow,
    checkpoints: Checkpoints | None = None,
    seed: int | None = None,
) -> list[Fitted]:
    """Train a stack; it takes and returns plain values, so that it can run anywhere.

    Fits that leave are dropped from it, a crowd at a time: the rest go on as a smaller stack.

    Args:
        stack: the fits.
        prepared: the data.
        follow: called after each epoch with the stack, its curves and the number of epochs done.
        checkpoints: where to resume from, and keep the state.
        seed: of the runs whose path on all training rows is kept.
    """
    ends = dict(enumerate(stack.begin))
    end, count = stack.until or stack.fits[0][0].epochs, len(stack.fits)

    def going() -> list[int]:
        return [r for r in range(count) if r not in ends or (not ends[r].left and ends[r].epoch < end)]

    while places := going():
        begin = tuple(ends[r] for r in places if r in ends)
        part = replace(stack, fits=tuple(stack.fits[r] for r in places), begin=begin)
        curves = torch.stack([one.curve for one in ends.values()]) if len(places) < count else None

        def after_epoch(curve: Tensor, epoch: int, places: list[int] = places, curves: Tensor | None = curves) -> None:
            if curves is not None:
                curves[places, epoch - 1] = curve[: len(places), epoch - 1]
            follow(stack, (curve[:count] if curves is None else curves).numpy(), epoch)

        ends |= zip(places, _train(part, prepared, after_epoch, checkpoints, seed), strict=True)
    return [ends[r] for r in range(count)]


def _train(
    stack: Stack,
    prepared: Prepared,
    after_epoch: Callable[[Tensor, int], None],
    checkpoints: Checkpoints | None,
    seed: int | None,
) -> list[Fitted]:
    # Trains until its end, or until many have left.
    runs, k, key = [run for run, _ in stack.fits], prepared.X.shape[1], stack.key
    first = runs[0]
    # A batched product of one takes another path through MKL than that of two or more, and sums in another order.
    copies = 2 if len(runs) == 1 else 1
    followed = [r for r, (run, split) in enumerate(stack.fits) if split == 0 and run.seed == seed]
    model, state = _begin(stack, k, copies, followed)
    if checkpoints:
        checkpoints.resume(key, state)
    rows = data.Rows(prepared, [split for _, split in stack.fits], first.device)
    epochs = range(state.epoch, stack.until or first.epochs)
    order = data.MinibatchOrder([run.seed for run in runs], len(rows), stack.batch_size, epochs)
    optimizer = optimizers.make(runs * copies, state.parameters, state.optimizer, order.steps)
    stop = (first.patience, first.min_delta or 0.0) if first.patience else None

    def keep(state: fit.State) -> None:
        after_epoch(state.curve, state.epoch)
        if checkpoints:
            checkpoints.keep(key, state)

    batches = data.minibatches(rows, order, copies)
    fit.fit(model, state, batches, order.steps, optimizer, keep, followed, fit.loss_of(first), stop, stack.until)
    paths = dict(zip(followed, state.path, strict=True))
    values = lift.values(model).cpu()
    return [_end(state, values, r, paths.get(r)) for r in range(len(runs))]


def _begin(stack: Stack, k: int, copies: int, followed: Sequence[int]) -> tuple[variants.Model, fit.State]:
    runs = [run for run, _ in stack.fits] * copies
    first, begin = runs[0], stack.begin * copies
    if begin:
        values = torch.stack([one.values for one in begin])
    else:
        values = parameters.initial(first.variant, k, [run.init for run in runs], [run.seed for run in runs])
    model = lift.lift(variants.make(first.variant, k), values.to(first.device), k)
    state = fit.State.initial(model, first.epochs, len(followed))
    state.optimizer = optimizers.initial(first.optimizer, state.parameters)
    if begin:
        state.epoch = begin[0].epoch
        state.curve = torch.stack([one.curve for one in begin])
        state.diverged = torch.tensor([one.diverged for one in begin])
        for path, r in zip(state.path, followed, strict=True):
            path.copy_(begin[r].path if begin[r].path is not None else path)
        for slot, tensor in enumerate(state.optimizer):
            tensor.copy_(torch.stack([one.optimizer[slot] for one in begin]))
    return model, state


def _end(state: fit.State, values: Tensor, r: int, path: Tensor | None) -> Fitted:
    diverged, left = int(state.diverged[r]), int(state.left[r])
    why = "" if left < 0 else f"{'diverged' if diverged >= 0 else 'converged'}, epoch {left}"
    over = why or state.epoch == state.curve.shape[1]
    own = () if over else tuple(tensor[r].cpu().clone() for tensor in state.optimizer)
    return Fitted(values[r], state.curve[r], diverged, path, state.epoch, own, why)


def collect(run: Run, fits: Sequence[Fitted], prepared: Prepared) -> Record:
    """Build a run's record from its fits, one per split."""
    k, rows = prepared.X.shape[1], prepared.train[0]
    X, y = torch.from_numpy(prepared.standardized(0)[rows]), torch.from_numpy(prepared.y[rows])
    values, shapes = torch.stack([fitted.values for fitted in fits]), parameters.shapes(run.variant, k)
    gradient = fit.gradient(variants.make(run.variant, k), values[0], X, y)
    tensors = {
        **parameters.named(values, shapes),
        **{f"grad_{name}": value for name, value in parameters.named(gradient, shapes).items()},
    }
    diverged = "; ".join(
        f"{f'fold {split}' if split else 'all training rows'}, epoch {fitted.diverged}"
        for split, fitted in enumerate(fits)
        if fitted.diverged >= 0
    )
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    arrays |= {"mean": prepared.mean, "scale": prepared.scale}
    left = "; ".join(
        f"{f'fold {split}' if split else 'all training rows'}: {fitted.left}"
        for split, fitted in enumerate(fits)
        if fitted.left
    )
    path = None if fits[0].path is None else fits[0].path.numpy()
    return Record(run, diverged, fits[0].curve.numpy(), arrays, path=path, left=left)
