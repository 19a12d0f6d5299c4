"""Measure what the README claims of speed: whole commands on fresh clones, and a stack against plain PyTorch loops."""

import sys
import tempfile
import time
from pathlib import Path

import torch
from conftest import copy_checkout, run
from torch import nn

from pipeline import data, sweep
from pipeline.params import load
from pipeline.train import train_stack


def seconds(*command: str, cwd: Path) -> float:
    begin = time.perf_counter()
    run(*command, cwd=cwd)
    return time.perf_counter() - begin


def commands() -> None:
    """Time the default sweep into an empty store, its repetition, and a sweep of 1,008 runs."""
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        print(f"dvc repro, 48 runs, empty store   {seconds('dvc', 'repro', cwd=repository):8.1f} s", flush=True)
        print(f"dvc repro, nothing changed        {seconds('dvc', 'repro', cwd=repository):8.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        rates = f"sweep.lr=[{','.join(f'{number}e-6' for number in range(1, 22))}]"
        elapsed = seconds("dvc", "exp", "run", "-S", rates, cwd=repository)
        print(f"dvc exp run, 1,008 runs           {elapsed:8.1f} s", flush=True)


def plain(rows: torch.Tensor, y: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Time one run as the post writes it: nn.Linear, torch.optim.SGD, a shuffled TensorDataset."""
    torch.manual_seed(1)
    model = nn.Linear(rows.shape[1], 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, y), batch_size, shuffle=True)
    begin = time.perf_counter()
    for _ in range(epochs):
        for X, target in loader:
            loss = nn.functional.mse_loss(model(X), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - begin


def stacks() -> None:
    """Time stacks of nn.Linear, batch size 2, beside plain loops, turn by turn; print the ratio per run."""
    prepared = data.load(Path("data/prepared/tensors.safetensors"))
    params = load()
    epochs = 200
    one = next(run for run in sweep.plan(params) if run.variant == "linear" and run.batch_size == 2)
    for count in (1, 10, 100, 1000):
        fits = tuple(
            (sweep.Run("linear", 2, 1e-5, seed, epochs, "zeros", "cpu", one.fingerprint), 0) for seed in range(count)
        )
        ratios, stacked = [], []
        for _ in range(3):
            begin = time.perf_counter()
            train_stack(sweep.Stack(fits, prepared.train_rows[0]), prepared, lambda *_: None)
            stacked.append(time.perf_counter() - begin)
            ratios.append(plain(prepared.X, prepared.y, 2, epochs) * count / stacked[-1])
        elapsed, ratio = sorted(stacked)[1], sorted(ratios)[1]
        print(
            f"{count:5} runs in a stack, {epochs} epochs  {elapsed:8.2f} s, {ratio:6.1f} × as fast as one by one",
            flush=True,
        )


if __name__ == "__main__":
    if not Path("data/prepared/tensors.safetensors").exists():
        sys.exit("data/prepared: is missing; run: make repro")
    stacks()
    commands()
