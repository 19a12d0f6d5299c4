"""Measures worker processes against one process: training as in the default sweep, and 1,008 runs of 200 epochs."""

import subprocess
import sys
import time
from collections.abc import Iterator

from pipeline.system import kernels  # before torch: it pins the kernels

# isort: split
from two_engines import table

from bench.rows import Row
from pipeline.config.axes import BatchSize
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.engine import Here
from pipeline.execution.processes import Workers
from pipeline.execution.trainer import Trainer
from pipeline.runs.run import Run
from pipeline.system import machine

SIZES: tuple[BatchSize, ...] = (1, 2, 4, "full")
assert not kernels.LOADED


def runs(rates: int, epochs: int) -> list[Run]:
    grid = [(size, rate, seed) for size in SIZES for rate in range(1, rates + 1) for seed in (1, 2, 3)]
    return [
        Run("matrix", size, rate * 1e-6, seed, epochs, "zeros", "cpu", f"{size} {rate} {seed}")
        for size, rate, seed in grid
    ]


def seconds(planned: list[Run], count: int) -> float:
    """Train in a number of workers, 0 for this process; return the seconds, with the workers' start."""
    begin = time.perf_counter()
    prepared = table()
    with Workers(count, prepared, Checkpoints()) if count else Here(prepared) as engine:
        Trainer(prepared, engine).train(planned)
    return time.perf_counter() - begin


def rows() -> Iterator[Row]:
    """Measure the best of three, in a new process: workers must be forked before there are threads."""
    for title, rates, epochs in (("12 runs × 1,000 epochs", 1, 1000), ("1,008 runs × 200 epochs", 84, 200)):
        command = [sys.executable, "-m", "bench.engines", str(rates), str(epochs)]
        told = subprocess.run(command, env=kernels.unpinned(), capture_output=True, text=True, check=True).stdout
        here, workers = map(float, told.split())
        yield Row(f"training {title} in one process", here, "s")
        yield Row(f"  one process ÷ {machine.cores()} workers", here / workers, "×")


if __name__ == "__main__":
    planned = runs(*map(int, sys.argv[1:]))
    pairs = [(seconds(planned, 0), seconds(planned, machine.cores())) for _ in range(3)]
    print(*(min(times) for times in zip(*pairs, strict=True)))
