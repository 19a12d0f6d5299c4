"""Measures training alone: stacks against plain loops, and pinned kernels against the machine's own."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from conftest import REPOSITORY, run  # before torch: pipeline pins its kernels

# isort: split
import torch
from sweeps import unscaled
from torch.utils.data import DataLoader, TensorDataset

from bench.rows import Row
from pipeline.config.params import load
from pipeline.runs import sweep
from pipeline.runs.run import Run
from pipeline.system.kernels import KERNELS
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.variants import loop, make

EPOCHS = 200
# Rows, features, batch size, runs in the stack, epochs: those of the default sweep, then ever larger.
TABLES = [(5, 3, 2, 18, 2000), (5, 3, 5, 18, 5000), (2000, 8, 64, 50, 50), (2000, 8, 2000, 50, 500)]
TABLES += [(50_000, 20, 1024, 50, 5), (50_000, 20, 50_000, 6, 50)]


def plain(rows: torch.Tensor, y: torch.Tensor, batch_size: int) -> float:
    """Time one run of the tutorial's loop: nn.Linear, torch.optim.SGD, a shuffled TensorDataset."""
    torch.manual_seed(1)
    loader: loop.Loader = DataLoader(TensorDataset(rows, y), batch_size, shuffle=True)
    begin = time.perf_counter()
    deque(loop.train(make("linear", rows.shape[1]), loader, 1e-5, EPOCHS), maxlen=0)
    return time.perf_counter() - begin


def rows() -> Iterator[Row]:
    """Time stacks of nn.Linear at batch size 2 in turn with plain loops."""
    prepared = Prepared.load(Path("data/prepared/tensors.safetensors"))
    one = next(run for run in sweep.plan(load()) if run.variant == "linear" and run.batch_size == 2)
    for count in (1, 10, 100, 1000):
        fits = tuple(
            (Run("linear", 2, 1e-5, seed, EPOCHS, "zeros", "cpu", one.fingerprint), 0) for seed in range(count)
        )
        ratios = []
        for _ in range(3):
            begin = time.perf_counter()
            stacks.train(stacks.Stack(fits, (prepared.train_rows[0],) * len(fits)), prepared, lambda *_: None)
            took = time.perf_counter() - begin
            ratios.append(plain(torch.from_numpy(prepared.X), torch.from_numpy(prepared.y), 2) * count / took)
        yield Row(f"{count:,} runs × {EPOCHS} epochs in a stack: plain loops ÷ stack", median(ratios), "×")


def train_table(n: int, k: int, batch_size: int, count: int, epochs: int) -> float:
    """Time a stack on a random table; unpinned kernels use all of the machine's threads."""
    if KERNELS == "native":
        torch.set_num_threads(os.cpu_count() or 1)
    chance = torch.Generator().manual_seed(0)
    X, y = torch.randn(n, k, generator=chance), torch.randn(n, 1, generator=chance)
    prepared = unscaled(X, y, torch.ones(1, n, dtype=torch.bool))
    runs = [Run("linear", batch_size, 1e-5, seed, epochs, "zeros", "cpu", "") for seed in range(count)]
    begin = time.perf_counter()
    stacks.train(stacks.Stack(tuple((run, 0) for run in runs), (n,) * count), prepared, lambda *_: None)
    return time.perf_counter() - begin


def pinning() -> Iterator[Row]:
    """Time training with pinned kernels in turn with the machine's own on all threads, each in a new process."""
    for shape in TABLES:
        command = ("python", "-m", "bench.stacks", *map(str, shape))
        turns = []
        for _ in range(3):
            pinned = float(run(*command, cwd=REPOSITORY).stdout)
            native = float(run(*command, cwd=REPOSITORY, extra={"PIPELINE_KERNELS": "native"}).stdout)
            turns.append(pinned / native)
        n, k, batch_size, count, epochs = shape
        of = f"{n:,} × {k}, batch {batch_size:,}, {count} runs, {epochs:,} epochs"
        yield Row(f"{of}: pinned kernels ÷ native", median(turns), "×")


if __name__ == "__main__":
    print(train_table(*map(int, sys.argv[1:])))
