"""What every peer does: train nn.Linear on data/raw/scores.csv, a run per configuration, as PyTorch's tutorial does."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

DATA = Path(__file__).parent.parent.parent / "data/raw/scores.csv"
EPOCHS = 200
AXES: dict[str, list[Any]] = {"batch_size": [1, 2, 4, 5], "lr": [1e-6, 1e-5], "seed": [1, 2, 3]}
Config = dict[str, Any]


def grid() -> list[Config]:
    """Return the configurations, 24."""
    return [dict(zip(AXES, values, strict=True)) for values in product(*AXES.values())]


def train(batch_size: int, lr: float, seed: int) -> Iterator[float]:
    """Train one run; yield each epoch's mean squared error."""
    rows = torch.tensor([[float(cell) for cell in line.split(",")] for line in DATA.read_text().splitlines()[1:]])
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(rows[:, :3], rows[:, 3:]), batch_size, shuffle=True)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for _ in range(EPOCHS):
        total = 0.0
        for X, y in loader:
            loss = F.mse_loss(model(X), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(X)
        yield total / len(rows)


def timed(sweep: Callable[[], object], runs: int = len(grid())) -> None:
    """Make some runs; print the seconds of one, without the start of Python and its imports."""
    torch.set_num_threads(1)  # as fast as any for five rows
    list(train(5, 1e-6, 0))  # the first optimizer imports torch._dynamo, 1 s
    begin = time.perf_counter()
    sweep()
    print(json.dumps({"seconds": (time.perf_counter() - begin) / runs, "runs": runs}))
