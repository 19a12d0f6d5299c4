"""Runs that train together as one stack: how they are grouped, trained, and collected into records."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline import variants
from pipeline.runs.fingerprints import fingerprint
from pipeline.runs.records import Array, Record, fit_name
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import lift, loop, minibatches, optimizers, parameters

STACK_FLOATS = 2**20  # the most numbers in a stack's minibatch: 4 MB of float32, which fit into a processor's cache
SHARED_FLOATS = 2**17  # the same for fits on different numbers of rows, whose minibatches are copied


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
    """Fits that train together: they share variant, rows of a minibatch, optimizer, loss and epochs.

    fits: each a run and a split. rows: the training rows of each fit. begin: each fit so far, all after the same
    number of epochs except those that have left, which are not trained; empty for a new stack. until: the number of
    epochs after which training pauses; None for all.
    """

    fits: tuple[tuple[Run, int], ...]
    rows: tuple[int, ...]
    begin: tuple[Fitted, ...] = ()
    until: int | None = None

    @property
    def batch_size(self) -> int:
        """The number of rows in a minibatch."""
        return self.fits[0][0].minibatch(self.rows[0])

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


Follow = Callable[[Stack, Array, int], None]  # takes a stack's curves (R, epochs) and the number of epochs done


class Saved(Protocol):
    """Where the states of stacks are saved by their keys, so that a killed training goes on from there."""

    def resume(self, key: str, state: loop.State) -> None:
        """Set a new stack's state to the saved one, if there is one."""

    def keep(self, key: str, state: loop.State) -> None:
        """Note a stack's state, to be saved if it is time to."""


def group(runs: Sequence[Run], train_rows: Sequence[int], k: int, first: int = 0) -> list[Stack]:
    """Group one variant's runs, each on every split, into stacks of at most STACK_FLOATS numbers per minibatch.

    Args:
        runs: of one variant.
        train_rows: the number of training rows of each split.
        k: the number of features.
        first: the number of the first of these splits.
    """
    groups: dict[tuple[object, ...], list[tuple[Run, int]]] = defaultdict(list)
    count = Counter(_alike(run) for run in runs)
    for run, (split, rows) in product(runs, enumerate(train_rows, start=first)):
        size, alike = run.minibatch(rows), _alike(run)
        shared = count[alike] * len(train_rows) * size * k <= SHARED_FLOATS and run.optimizer not in optimizers.COUNTING
        groups[alike, size, None if shared else rows].append((run, split))
    result = []
    for fits in groups.values():
        fits.sort(key=lambda one: -train_rows[one[1] - first])  # as the stack lines them up
        counts = tuple(train_rows[split - first] for _, split in fits)
        most = max(1, STACK_FLOATS // (fits[0][0].minibatch(counts[0]) * k))
        result += [Stack(tuple(fits[at : at + most]), counts[at : at + most]) for at in range(0, len(fits), most)]
    return result


def _alike(run: Run) -> tuple[object, ...]:
    return run.batch_size, run.optimizer, run.loss, run.epochs


def train(
    stack: Stack,
    prepared: Prepared,
    follow: Follow,
    saved: Saved | None = None,
    seed: int | None = None,
) -> list[Fitted]:
    """Train a stack; it takes and returns plain values, so that it can run anywhere.

    Once enough fits have left, they are dropped, and the rest go on as a smaller stack.

    Args:
        stack: the fits.
        prepared: the data.
        follow: called after each epoch with the stack, its curves and the number of epochs done.
        saved: where to resume from, and keep the state.
        seed: of the runs whose path on all training rows is kept.
    """
    ends = dict(enumerate(stack.begin))
    end, count = stack.until or stack.fits[0][0].epochs, len(stack.fits)

    while places := [r for r in range(count) if r not in ends or (not ends[r].left and ends[r].epoch < end)]:
        begin = tuple(ends[r] for r in places if r in ends)
        fits, rows = zip(*((stack.fits[r], stack.rows[r]) for r in places), strict=True)
        part = replace(stack, fits=fits, rows=rows, begin=begin)
        curves = torch.stack([one.curve for one in ends.values()]) if len(places) < count else None

        def after_epoch(curve: Tensor, epoch: int, places: list[int] = places, curves: Tensor | None = curves) -> None:
            if curves is not None:
                curves[places, epoch - 1] = curve[: len(places), epoch - 1]
            follow(stack, (curve[:count] if curves is None else curves).numpy(), epoch)

        ends |= zip(places, _train(part, prepared, after_epoch, saved, seed), strict=True)
    return [ends[r] for r in range(count)]


def _train(
    stack: Stack,
    prepared: Prepared,
    after_epoch: Callable[[Tensor, int], None],
    saved: Saved | None,
    seed: int | None,
) -> list[Fitted]:
    # Trains until its end, or until many have left.
    groups = _lined_up(stack.rows)
    lined = [r for group in groups for r in group]
    place_of = {r: place for place, r in enumerate(lined)}
    places = [place_of[r] for r in range(len(stack.fits))]
    key, fits, begin = stack.key, [stack.fits[r] for r in lined], [stack.begin[r] for r in lined if stack.begin]
    followed = [places[r] for r, (run, split) in enumerate(stack.fits) if split == 0 and run.seed == seed]
    model, state = _begin([run for run, _ in fits], begin, prepared.X.shape[1], followed)
    if saved:
        saved.resume(key, state)

    def keep(state: loop.State) -> None:
        after_epoch(state.curve if places == lined else state.curve[places], state.epoch)
        if saved:
            saved.keep(key, state)

    run, steps = fits[0][0], minibatches.steps([stack.rows[group[0]] for group in groups], stack.batch_size)
    stream = _minibatches(stack, prepared, groups, steps, range(state.epoch, stack.until or run.epochs))
    parts = _parts(model, state, fits, groups, steps)
    rows = torch.tensor([stack.rows[r] for r in lined], device=run.device)
    loop.fit(run, state, stream, parts, rows, keep, followed, stack.until)
    paths = dict(zip(followed, state.path, strict=True))
    values = lift.values(model).cpu()
    return [_end(state, values, r, paths.get(r)) for r in places]


def _lined_up(rows: Sequence[int]) -> list[list[int]]:
    # The places of the fits, grouped by their number of rows, those with most first. One alone is there twice, as a
    # batched product of one takes another path through MKL than that of two or more, and sums in another order.
    groups: dict[int, list[int]] = defaultdict(list)
    for r, own in enumerate(rows):
        groups[own].append(r)
    return [groups[own] if len(groups[own]) > 1 else groups[own] * 2 for own in sorted(groups, reverse=True)]


def _minibatches(
    stack: Stack, prepared: Prepared, groups: Sequence[Sequence[int]], steps: Sequence[range], epochs: range
) -> Iterator[minibatches.Minibatch]:
    streams = []
    for group in groups:
        fits = [stack.fits[r] for r in dict.fromkeys(group)]
        rows = minibatches.TrainingRows(prepared, [split for _, split in fits], fits[0][0].device)
        order = minibatches.MinibatchOrder([run.seed for run, _ in fits], len(rows), stack.batch_size, epochs)
        streams.append(minibatches.minibatches(rows, order, len(group) // len(fits)))
    return minibatches.together(streams, steps, len(epochs))


def _parts(
    model: variants.Model,
    state: loop.State,
    fits: Sequence[tuple[Run, int]],
    groups: Sequence[Sequence[int]],
    steps: Sequence[range],
) -> list[loop.Part]:
    # What takes each step of an epoch; steps of the same groups share one.
    bounds = [0, *accumulate(map(len, groups))]
    parts = {}
    for own in dict.fromkeys(steps):
        place = slice(bounds[own.start], bounds[own.stop])
        part = model if place == slice(0, len(fits)) else lift.part(model, place)
        values, moments = list(part.parameters()), [tensor[place] for tensor in state.optimizer]
        optimizer = optimizers.make([run for run, _ in fits[place]], values, moments, len(steps))
        parts[own] = loop.Part(place, part, values, optimizer)
    return [parts[own] for own in steps]


def _begin(
    runs: Sequence[Run], begin: Sequence[Fitted], k: int, followed: Sequence[int]
) -> tuple[variants.Model, loop.State]:
    first = runs[0]
    if begin:
        values = torch.stack([one.values for one in begin])
    else:
        values = parameters.initial(first.variant, k, [run.init for run in runs], [run.seed for run in runs])
    model = lift.lift(variants.make(first.variant, k), values.to(first.device), k)
    state = loop.State.initial(model, first.epochs, len(followed))
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


def _end(state: loop.State, values: Tensor, r: int, path: Tensor | None) -> Fitted:
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
    gradient = loop.gradient(variants.make(run.variant, k), values[0], X, y)
    tensors = parameters.named(values, shapes)
    tensors |= {f"grad_{name}": value for name, value in parameters.named(gradient, shapes).items()}
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    arrays |= {"mean": prepared.mean, "scale": prepared.scale}
    named = [(fit_name(split), fitted) for split, fitted in enumerate(fits)]
    diverged = "; ".join(f"{name}, epoch {fitted.diverged}" for name, fitted in named if fitted.diverged >= 0)
    left = "; ".join(f"{name}: {fitted.left}" for name, fitted in named if fitted.left)
    path = None if fits[0].path is None else fits[0].path.numpy()
    return Record(run, diverged, fits[0].curve.numpy(), arrays, path=path, left=left)
