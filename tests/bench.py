"""Measure the README's claims about speed: stacks, pinned kernels, sweeps in fresh clones, and looking at them."""

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median

from conftest import REPOSITORY, copy_checkout, environment, run  # before torch: pipeline pins its kernels

# isort: split
import bench_looking as looking
import bench_storing as storing
import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline import KERNELS, outs, sweep
from pipeline.params import load
from pipeline.training import data, stacks
from pipeline.variants import loop, make


def sweeps() -> None:
    """Time the default sweep into an empty store, its repeat, and a sweep of 1,008 runs; then look at them."""
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        whole, evaluate = stages("dvc", "repro", cwd=repository)
        print(f"dvc repro, 48 runs, empty store   {whole:8.1f} s, of which evaluate {evaluate:.1f} s", flush=True)
        print(f"dvc repro, nothing changed        {looking.seconds('dvc', 'repro', cwd=repository):8.2f} s", flush=True)
        looking.starts(repository)
        looking.ending(repository)
        looking.predictions(repository)
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        rates = f"sweep.lr=[{','.join(f'{number}e-6' for number in range(1, 22))}]"
        whole, evaluate = stages("dvc", "exp", "run", "-S", rates, cwd=repository)
        print(f"dvc exp run, 1,008 runs           {whole:8.1f} s, of which evaluate {evaluate:.1f} s", flush=True)
        looking.report(repository / outs.REPORT, 1008)


def stages(*command: str, cwd: Path) -> tuple[float, float]:
    """Return the seconds that a command of DVC takes, and those of its stage evaluate, which comes last."""
    begin = evaluate = time.perf_counter()
    with subprocess.Popen(
        command, cwd=cwd, env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for told in process.stdout:
            if told.startswith("Running stage 'evaluate'"):
                evaluate = time.perf_counter()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
    end = time.perf_counter()
    return end - begin, end - evaluate


def plain(rows: torch.Tensor, y: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Time one run of the tutorial's loop: nn.Linear, torch.optim.SGD, a shuffled TensorDataset."""
    torch.manual_seed(1)
    loader: loop.Loader = DataLoader(TensorDataset(rows, y), batch_size, shuffle=True)
    begin = time.perf_counter()
    deque(loop.train(make("linear", rows.shape[1]), loader, 1e-5, epochs), maxlen=0)
    return time.perf_counter() - begin


def stacked() -> None:
    """Time stacks of nn.Linear at batch size 2 in turn with plain loops; print the ratio per run."""
    prepared = data.load(Path("data/prepared/tensors.safetensors"))
    params = load()
    epochs = 200
    one = next(run for run in sweep.plan(params) if run.variant == "linear" and run.batch_size == 2)
    for count in (1, 10, 100, 1000):
        fits = tuple(
            (sweep.Run("linear", 2, 1e-5, seed, epochs, "zeros", "cpu", one.fingerprint), 0) for seed in range(count)
        )
        ratios, times = [], []
        for _ in range(3):
            begin = time.perf_counter()
            stacks.train(stacks.Stack(fits, prepared.train_rows[0]), prepared, lambda *_: None)
            times.append(time.perf_counter() - begin)
            ratios.append(plain(prepared.X, prepared.y, 2, epochs) * count / times[-1])
        elapsed, ratio = sorted(times)[1], sorted(ratios)[1]
        print(
            f"{count:5} runs in a stack, {epochs} epochs  {elapsed:8.2f} s, {ratio:6.1f} × as fast as one by one",
            flush=True,
        )


# Rows, features, batch size, runs in the stack, epochs: those of the default sweep, then ever larger.
TABLES = [(5, 3, 2, 18, 2000), (5, 3, 5, 18, 5000), (2000, 8, 64, 50, 50), (2000, 8, 2000, 50, 500)]
TABLES += [(50_000, 20, 1024, 50, 5), (50_000, 20, 50_000, 6, 50)]


def train_table(n: int, k: int, batch_size: int, count: int, epochs: int) -> float:
    """Time a stack on a random table; unpinned kernels use all of the machine's threads."""
    if KERNELS == "native":
        torch.set_num_threads(os.cpu_count() or 1)
    chance = torch.Generator().manual_seed(0)
    X, y = torch.randn(n, k, generator=chance), torch.randn(n, 1, generator=chance)
    prepared = data.Prepared(X, y, torch.ones(1, n, dtype=torch.bool), torch.zeros(1, k), torch.ones(1, k))
    runs = [sweep.Run("linear", batch_size, 1e-5, seed, epochs, "zeros", "cpu", "") for seed in range(count)]
    begin = time.perf_counter()
    stacks.train(stacks.Stack(tuple((run, 0) for run in runs), n), prepared, lambda *_: None)
    return time.perf_counter() - begin


def pinning() -> None:
    """Time training with pinned kernels in turn with the machine's own on all threads, each in a new process."""
    for shape in TABLES:
        command = ("python", str(Path(__file__)), *map(str, shape))
        turns = []
        for _ in range(3):
            pinned = float(run(*command, cwd=REPOSITORY).stdout)
            native = float(run(*command, cwd=REPOSITORY, extra={"PIPELINE_KERNELS": "native"}).stdout)
            turns.append((pinned / native, pinned, native))
        n, k, batch_size, count, epochs = shape
        print(
            f"{n:6,} × {k:2}, batch {batch_size:6,}, {count:2} runs, {epochs:4} epochs  pinned "
            f"{median(turn[1] for turn in turns):6.2f} s, native {median(turn[2] for turn in turns):6.2f} s: pinning "
            f"takes {median(turn[0] for turn in turns):4.2f} × as long",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(train_table(*map(int, sys.argv[1:])))
        sys.exit()
    if not Path("data/prepared/tensors.safetensors").exists():
        sys.exit("data/prepared: is missing; run: make repro")
    stacked()
    pinning()
    looking.line()
    storing.report()
    sweeps()
