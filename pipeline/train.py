"""Stage train, one per variant: prepared tensors -> curves, weights and a table of runs.

Reads data/prepared; writes data/trained/VARIANT/{runs.csv, curves.safetensors, weights.safetensors}.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from pipeline import check_pins, outs, records, sweep, variants
from pipeline.params import InputError, Params, load
from pipeline.progress import Display
from pipeline.records import Record
from pipeline.sweep import Run, Stack
from pipeline.table.prepared import check_prepared
from pipeline.tracking.piped import Piped
from pipeline.tracking.protocol import Follow, Tracking
from pipeline.training import data, fit, lift, parameters, progress
from pipeline.training.checkpoints import Checkpoints


def main() -> None:
    """Run the stage for the variant that the command line names."""
    check_pins()
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description="Train the runs of one variant.")
    parser.add_argument("variant", metavar="VARIANT", help="one that params.yaml lists under variants")
    name = parser.parse_args().variant
    params = load()
    if name not in params.variants:
        parser.error(f"VARIANT: got {name!r}, takes one that params.yaml lists: {', '.join(params.variants)}")
    check_device(params)
    splits = len(check_prepared(params.data))
    runs = sweep.plan(params)
    own = [run for run in runs if run.variant == name]
    check_memory(len(own), splits, params.train.epochs, psutil.virtual_memory().available)
    prepared = data.load(outs.PREPARED)
    stacks = sweep.stacks(own, prepared.train_rows, prepared.X.shape[1])
    title = f"train {name} ({params.variants.index(name) + 1} of {len(params.variants)})"
    with Display(title) as display, Piped(params, runs, display) as tracking:
        checkpoints = Checkpoints()
        shown = progress.Training(display, tracking, stacks, prepared.X.shape[1])
        records.write(outs.TRAINED / name, train(own, prepared, shown, checkpoints))
        checkpoints.clear()
    shown.conclude()


def check_device(params: Params) -> None:
    """Refuse a device that this machine lacks.

    Raises:
        InputError: the device is cuda and torch finds none.
    """
    if params.train.device == "cuda" and not torch.cuda.is_available():
        raise InputError("params.yaml: train.device: got 'cuda', but torch finds no CUDA device here; takes cpu")


def check_memory(runs: int, splits: int, epochs: int, available: int) -> None:
    """Refuse more epochs than fit into memory: every fit's whole curve is kept until the stage writes its outs.

    Args:
        runs: the number of runs in this stage.
        splits: the number of fits per run.
        epochs: per fit; 4 bytes each for every fit, and twice more for each run when the outs are written.
        available: free memory in bytes.

    Raises:
        InputError: the curves do not fit into memory.
    """
    needed = runs * (splits + 2) * epochs * 4
    if needed > available:
        raise InputError(
            f"params.yaml: train.epochs: got {epochs}, so that the curves of {runs} run(s) of {splits} fits take "
            f"{needed / 2**30:.3g} GiB, of {available / 2**30:.3g} GiB of memory that is free; takes at most "
            f"{available // (needed // epochs)} here"
        )


def train(runs: Sequence[Run], prepared: data.Prepared, tracking: Tracking, checkpoints: Checkpoints) -> list[Record]:
    """Train one variant's runs stack by stack, and report each to `tracking`."""
    done: dict[Run, Record] = {}
    fits: dict[tuple[Run, int], Fitted] = {}
    splits = range(len(prepared.train))
    for stack in sweep.stacks(runs, prepared.train_rows, prepared.X.shape[1]):
        tracking.start([run for run, _ in stack.fits])
        fits |= zip(stack.fits, train_stack(stack, prepared, tracking.follow, checkpoints), strict=True)
        for run in dict.fromkeys(run for run, _ in stack.fits):
            if all((run, split) in fits for split in splits):
                done[run] = collect(run, [fits.pop((run, split)) for split in splits], prepared)
                tracking.finish(done[run])
    return [done[run] for run in runs]


@dataclass(frozen=True)
class Fitted:
    """One fit: its parameters (P,), curve (epochs,) and the epoch in which it diverged, or -1."""

    values: Tensor
    curve: Tensor
    diverged: int


def train_stack(
    stack: Stack, prepared: data.Prepared, follow: Follow, checkpoints: Checkpoints | None = None
) -> list[Fitted]:
    """Train a stack; it takes and returns plain values, so that it can run anywhere."""
    first, k = stack.fits[0][0], prepared.X.shape[1]
    device = first.device
    seeds = [run.seed for run, _ in stack.fits]
    begin = parameters.initial(first.variant, k, first.init, seeds).to(device)
    model = lift.lift(variants.make(first.variant, k), begin, k)
    state = fit.State.initial(model, first.epochs)
    key = stack.key
    if checkpoints:
        checkpoints.resume(key, state)
    rows = data.Rows(prepared, [split for _, split in stack.fits], device)
    order = data.MinibatchOrder(seeds, len(rows), stack.batch_size, range(state.epoch, state.curve.shape[1]))
    lr = torch.tensor([run.lr for run, _ in stack.fits], device=device)
    on_all_rows = {run.fingerprint: r for r, (run, split) in enumerate(stack.fits) if split == 0}

    def after_epoch(state: fit.State) -> None:
        follow(on_all_rows, state.curve.numpy(), state.epoch)
        if checkpoints:
            checkpoints.keep(key, state)

    fit.fit(model, state, data.minibatches(rows, order), order.steps, lr, after_epoch)
    trained = lift.values(model).cpu()
    return [Fitted(*one) for one in zip(trained, state.curve, state.diverged.tolist(), strict=True)]


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
    return Record(run, diverged, fits[0].curve.numpy(), arrays)


if __name__ == "__main__":
    main()
