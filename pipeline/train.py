"""Stage train, one per variant: prepared tensors -> curves, weights and a table of runs.

Reads data/prepared; writes data/trained/VARIANT/{runs.csv, curves.safetensors, weights.safetensors, paths.safetensors},
and nested.safetensors if train.nested asks for it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking import tracker

if __name__ == "__main__":  # before torch, so that both load at once
    tracker.launch_ahead()

import psutil
import torch

from pipeline.config.params import Params, load
from pipeline.errors import InputError, leave
from pipeline.execution import progress, reuse
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.choice import choose
from pipeline.execution.engine import Engine
from pipeline.execution.listener import Listener, Listeners
from pipeline.runs import outs, records, sweep
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system.kernels import check_pins
from pipeline.system.progress import Display, count
from pipeline.table.checked import check_prepared
from pipeline.table.prepared import Prepared
from pipeline.training import nested, stacks

if TYPE_CHECKING:
    from pipeline.search.stage import Search


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
    search = of_variant(params, name)
    runs = sweep.plan(params)
    own = search.likely() if search else [run for run in runs if run.variant == name]
    most, epochs = search.most if search else len(own), max(params.axis("epochs"))
    further = nested.count(splits) if params.train.nested else 0
    check_memory(most, splits + further, epochs, psutil.virtual_memory().available)
    prepared = Prepared.load(outs.PREPARED)
    every = prepared.with_pairs(params.data.standardize) if further else prepared
    found = {} if search else reuse.recall(own, os.environ, params.train.nested)
    planned = plan(own, found, prepared, every)
    title = f"train {name} ({params.variants.index(name) + 1} of {len(params.variants)})"
    if not planned:
        write(outs.TRAINED / name, [found[run.fingerprint] for run in own])
        Display(title).say(f"{count(len(own), 'run')} known, none trained; to train again: PIPELINE_RETRAIN=1")
        return
    checkpoints = Checkpoints()
    with (
        choose(os.environ, planned, every, checkpoints) as engine,
        Display(title) as display,
        tracker.Tracker(params, runs, display) as tracking,
    ):
        shown = progress.Training(display, planned, prepared.X.shape[1], len(found), splits, tracking.count_stored)
        listeners = Listeners(shown, tracking)
        outs.study(name).unlink(missing_ok=True)

        def of_round(runs: Sequence[Run], prepared: Prepared, listener: Listener, engine: Engine) -> list[Record]:
            held = reuse.recall(runs, os.environ, params.train.nested)
            shown.known += len(held)
            return complete(runs, held, prepared, listener, engine)

        if search:
            made = search.run(prepared, listeners, engine, of_round)
        else:
            made = complete(own, found, prepared, listeners, engine)
        made = nested.complete(made, every, splits, shown, engine) if further else made  # MLflow has no place for them
        write(outs.TRAINED / name, made)
        checkpoints.clear()
    shown.conclude()


def plan(runs: Sequence[Run], found: Mapping[str, Record], prepared: Prepared, every: Prepared) -> list[stacks.Stack]:
    """List the stacks that are to train for one variant's runs.

    Args:
        runs: the variant's.
        found: records that need not train again, fingerprint -> record, some without what nested cross-validation fits.
        prepared: the data.
        every: the same, with the pairs of folds if they are wanted.
    """
    own = stacks.group(unknown(runs, found), prepared.train_rows, prepared.X.shape[1])
    whole = {fingerprint: record for fingerprint, record in found.items() if record.inner}
    return own + nested.group(unknown(runs, whole), every, len(prepared.train))


def unknown(runs: Sequence[Run], found: Mapping[str, Record]) -> list[Run]:
    """List the runs without a record among those found, fingerprint -> record."""
    return [run for run in runs if run.fingerprint not in found]


def complete(
    runs: Sequence[Run], found: Mapping[str, Record], prepared: Prepared, listener: Listener, engine: Engine
) -> list[Record]:
    """Train those runs of one variant whose records are not found; return the records of all, in the runs' order."""
    missing = unknown(runs, found)
    made = train(missing, prepared, listener, engine, runs[0].seed) if missing else []
    every = {**found, **{record.run.fingerprint: record for record in made}}
    return [every[run.fingerprint] for run in runs]


def write(folder: Path, made: Sequence[Record]) -> None:
    """Write a variant's outs, and note that they were made here."""
    records.write(folder, made)
    reuse.note(folder)


def of_variant(params: Params, name: str) -> "Search | None":
    """Return what searches a variant's runs; None if params.yaml lists them all."""
    if not sweep.is_searched(params):
        return None
    from pipeline.search.stage import Search  # noqa: PLC0415 - loads Optuna, 0.1 s

    return Search(params, name)


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
        splits: the number of fits per run, with those of nested cross-validation.
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


def train(
    runs: Sequence[Run], prepared: Prepared, listener: Listener, engine: Engine, seed: int | None = None
) -> list[Record]:
    """Train one variant's runs stack by stack; keep the paths of those with `seed`, by default the first's."""
    done: dict[Run, Record] = {}
    fits: dict[tuple[Run, int], stacks.Fitted] = {}
    splits = range(len(prepared.train))
    planned = stacks.group(runs, prepared.train_rows, prepared.X.shape[1])
    for stack, fitted in engine.train(planned, listener, runs[0].seed if seed is None else seed):
        listener.end(stack)
        fits |= zip(stack.fits, fitted, strict=True)
        trained = [
            run for run in dict.fromkeys(run for run, _ in stack.fits) if all((run, split) in fits for split in splits)
        ]
        collected = [stacks.collect(run, [fits.pop((run, split)) for split in splits], prepared) for run in trained]
        done |= zip(trained, collected, strict=True)
        if collected:
            listener.finish(collected)
    return [done[run] for run in runs]


if __name__ == "__main__":
    main()
    leave()
