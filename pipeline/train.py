"""Stage train, one per variant: prepared tensors -> curves, weights and a table of runs.

Reads data/prepared; writes data/trained/VARIANT/{runs.csv, curves.safetensors, weights.safetensors, paths.safetensors},
and nested.safetensors if train.nested asks for it.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking import tracker

if __name__ == "__main__":  # before torch, so that both load at once
    tracker.launch_ahead()

import psutil
import torch

from pipeline.config.params import Params, load
from pipeline.errors import InputError, leave
from pipeline.execution import cost, reuse
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.choice import choose
from pipeline.execution.listener import Listeners
from pipeline.execution.progress import Training
from pipeline.execution.trainer import Trainer, plan
from pipeline.runs import outs, records, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.records import Record
from pipeline.system.kernels import check_pins
from pipeline.system.progress import Display, count
from pipeline.table.prepared import Prepared, pairs

if TYPE_CHECKING:
    from pipeline.search.stage import Searcher


def main() -> None:
    """Run the stage for the variant that the command line names."""
    check_pins()
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description="Train the runs of one variant.")
    parser.add_argument("variant", metavar="VARIANT", help="one that params.yaml lists under variants")
    name = parser.parse_args().variant
    params = load()
    if name not in params.variants:
        parser.error(f"VARIANT: got {name!r}, takes one that params.yaml lists: {', '.join(params.variants)}")
    train(params, name, len(check_prepared(params.data)))


def train(params: Params, name: str, splits: int) -> None:
    """Train those runs of a variant, on so many splits, that are not known; write the outs of all."""
    runs, search = sweep.plan(params), searcher(params, name)
    own = search.likely() if search else [run for run in runs if run.variant == name]
    check_machine(params, search.most if search else len(own), splits)
    prepared = Prepared.load(outs.PREPARED)
    every = prepared.with_pairs(params.data.standardize) if params.train.nested else prepared
    recall = partial(reuse.recall, environment=os.environ, nested=params.train.nested)
    found = {} if search else recall(own)
    display = Display(f"train {name} ({params.variants.index(name) + 1} of {len(params.variants)})")
    if not (planned := plan(own, found, prepared, every)):
        write(outs.TRAINED / name, [found[run.fingerprint] for run in own])
        display.say(f"{count(len(own), 'run')} known, none trained; to train again: PIPELINE_RETRAIN=1")
        return
    checkpoints, tracking = Checkpoints(), tracker.Tracker(params, runs, display)
    with choose(os.environ, planned, every, checkpoints) as engine, display, tracking:
        shown = Training(display, planned, prepared.X.shape[1], splits, tracking.count_stored)
        trainer = Trainer(prepared, engine, Listeners(shown, tracking))
        outs.study(name).unlink(missing_ok=True)
        made = search.run(trainer, recall) if search else trainer.train(own, found)
        if params.train.nested:  # MLflow has no place for these fits
            made = Trainer(every, engine, shown).nest(made, splits)
        write(outs.TRAINED / name, made)
        checkpoints.clear()
    shown.conclude(len(made))


def write(folder: Path, made: Sequence[Record]) -> None:
    """Write a variant's outs, and note that they were made here."""
    records.write(folder, made)
    reuse.note(folder)


def searcher(params: Params, name: str) -> "Searcher | None":
    """Return what searches a variant's runs; None if params.yaml lists them all."""
    if not sweep.is_searched(params):
        return None
    from pipeline.search.stage import Searcher  # noqa: PLC0415 - loads Optuna, 0.1 s

    return Searcher(params, name)


def check_machine(params: Params, runs: int, splits: int) -> None:
    """Refuse a device or a number of epochs that this machine lacks, or has no memory for.

    Raises:
        InputError: the device is cuda and torch finds none, or the curves of so many runs do not fit into memory.
    """
    if params.train.device == "cuda" and not torch.cuda.is_available():
        raise InputError("params.yaml: train.device: got 'cuda', but torch finds no CUDA device here; takes cpu")
    fits = splits + len(pairs(splits)) * params.train.nested
    cost.check_memory(runs, fits, max(params.axis("epochs")), psutil.virtual_memory().available)


if __name__ == "__main__":
    main()
    leave()
