"""Measures how a sweep's cost grows: time a run, peak memory and the store's size, of `dvc exp run` in fresh clones."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from bench import kept, stored
from bench.measured import Cost, cloned, cost, experiment
from bench.rows import Row

RUNS = "10 100 1000 10000"  # 100000 takes the patience of a person who asks for it
SECONDS, MEMORY = {1000: 15.0, 10_000: 90.0}, {10_000: 1500.0}  # goals, in s and MB
TEN = ("variants=[matrix,linear]", "sweep.batch_size=[1,2,3,4,full]", "sweep.seed=[1]")  # runs for each learning rate
OWN = ("train.epochs=200", "track.points=200", *TEN)


def rows() -> Iterator[Row]:
    """Measure sweeps of more and more learning rates, and commands that read the store of the largest."""
    sizes = [int(number) for number in os.environ.get("GROWTH", RUNS).split()]
    for runs in sizes:
        with cloned() as repository:
            took = cost(experiment(*OWN, rates(runs // 10)), repository)
            yield from told(runs, took, repository)
            if runs == max(sizes):
                yield from stored.rows(repository, runs)
                yield from kept.rows(repository, runs)


def rates(count: int) -> str:
    """Return the option for a number of learning rates, all of them stable."""
    return f"sweep.lr=[{{from: 1e-7, to: 1e-5, num: {count}, scale: log}}]" if count > 1 else "sweep.lr=[1e-6]"


def told(runs: int, took: Cost, repository: Path) -> Iterator[Row]:
    """Write what a sweep took."""
    store = [*repository.glob("mlflow.db*"), *repository.glob("mlartifacts/**/*")]
    size = sum(path.stat().st_size for path in store if path.is_file()) / 1e6
    yield Row(f"dvc exp run, {runs:,} runs × 200 epochs", took.seconds, "s", most=SECONDS.get(runs, math.inf))
    yield Row("  a run", 1000 * took.seconds / runs, "ms")
    yield Row("  most memory, all processes together", took.memory, "MB", most=MEMORY.get(runs, math.inf))
    yield Row("  the store's size", size, "MB")
